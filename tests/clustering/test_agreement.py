"""Purity and normalized mutual information against scikit-learn, and what they must say of known cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from tclora.clustering import normalized_mutual_information, purity, silhouette_of_sample
from tclora.errors import ShapeError

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)


@given(LABELS)
def test_mutual_information_is_scikit_learns(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    # Sums of a few logarithms in float64.
    assert normalized_mutual_information(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)


@given(LABELS)
def test_purity_counts_the_commonest_label_of_each_cluster(pairs):
    right = 0
    for cluster in {a for a, _ in pairs}:
        inside = [b for a, b in pairs if a == cluster]
        right += max(inside.count(label) for label in set(inside))
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    assert purity(a, b) == pytest.approx(right / len(pairs), abs=1e-15)


def test_known_cases():
    a = np.array([0, 0, 1, 1])
    assert purity(a, a) == normalized_mutual_information(a, 1 - a) == 1.0
    assert normalized_mutual_information(a, np.array([0, 1, 0, 1])) == 0.0
    assert purity(a, np.array([0, 1, 0, 1])) == 0.5


def test_labels_of_other_rows_are_refused():
    with pytest.raises(ShapeError, match="different rows"):
        purity(np.array([0, 1]), np.array([0]))


def test_a_sample_of_all_rows_has_the_silhouette_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = (rng.standard_normal((60, 5)) + 2 * labels[:, None]).astype(np.float16)
    found = silhouette_of_sample(rows, labels, max_rows=100, seed=0)
    # float16 rows are exact in float64; distances from expanded squares lose half the digits of 1e-16.
    assert found == pytest.approx(silhouette_score(rows.astype(np.float64), labels), abs=1e-7)
    assert silhouette_of_sample(rows, labels, max_rows=30, seed=1) == silhouette_of_sample(
        rows, labels, max_rows=30, seed=1
    )
