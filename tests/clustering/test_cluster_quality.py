"""Measures of a clustering: scikit-learn's values, identities, and the edges where they are not defined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from tclora.clustering.quality import (
    adjusted_rand,
    balance,
    calinski_harabasz,
    davies_bouldin,
    pairwise_distances,
    silhouette,
    silhouette_scores,
    within_dispersion,
)
from tclora.clustering.stability import stability_of

# All measures are sums of at most a few thousand terms in float64; scikit-learn adds them in another order.
CLOSE = 1e-9


def _labeled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(12, 60)), int(rng.integers(1, 6)), int(rng.integers(2, 6))
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    return rng.standard_normal((n, d)) + labels[:, None], labels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_measures_are_those_of_scikit_learn(seed):
    rows, labels = _labeled(seed)
    assert calinski_harabasz(rows, labels) == pytest.approx(metrics.calinski_harabasz_score(rows, labels), rel=CLOSE)
    assert davies_bouldin(rows, labels) == pytest.approx(metrics.davies_bouldin_score(rows, labels), rel=CLOSE)
    expected = metrics.silhouette_samples(rows, labels)
    # The expanded distance |x|² - 2 x·y + |y|² loses half of the digits for near rows: the root of 2e-16.
    assert silhouette_scores(pairwise_distances(rows), labels) == pytest.approx(expected, abs=1e-6)
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    assert within_dispersion(rows, labels) == pytest.approx(((rows - means[labels]) ** 2).sum(), rel=CLOSE)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_adjusted_rand_is_scikit_learns_and_symmetric(n, k, other, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, k, n), rng.integers(0, other, n)
    assert adjusted_rand(a, b) == pytest.approx(metrics.adjusted_rand_score(a, b), abs=1e-12)
    assert adjusted_rand(a, b) == adjusted_rand(b, a)  # to the bit


def test_adjusted_rand_does_not_see_the_numbering_and_can_be_low():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    assert adjusted_rand(labels, np.array([3, 1, 0, 4, 2])[labels]) == 1.0
    # Unrelated labels: the standard deviation of the index is about 1 / 400 here.
    assert abs(adjusted_rand(labels, rng.integers(0, 5, 400))) < 0.02


def test_balance_is_entropy_over_its_largest_value():
    assert balance(np.array([5, 5, 5])) == pytest.approx(1.0)
    assert balance(np.array([9, 0, 0])) == 0.0
    assert balance(np.array([7])) == 1.0
    shares = np.array([0.5, 0.25, 0.25])
    assert balance(np.array([20, 10, 10])) == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3))


def test_clusters_without_spread_are_told_and_not_divided_by():
    rows = np.repeat(np.array([[0.0, 0.0], [3.0, 4.0]]), 4, axis=0)
    labels = np.repeat([0, 1], 4)
    assert calinski_harabasz(rows, labels) == math.inf
    assert davies_bouldin(rows, labels) == 0.0
    assert silhouette(pairwise_distances(rows), labels) == 1.0
    alike = np.ones((6, 2))
    assert davies_bouldin(alike, np.array([0, 0, 0, 1, 1, 1])) == 0.0
    assert silhouette(pairwise_distances(alike), np.array([0, 0, 0, 1, 1, 1])) == 0.0


def test_a_silhouette_passes_over_numbers_without_rows():
    rows, labels = _labeled(3)
    gapped = np.where(labels > 0, labels + 2, 0)
    distances = pairwise_distances(rows)
    assert np.array_equal(silhouette_scores(distances, labels), silhouette_scores(distances, gapped))
    assert not silhouette_scores(distances, np.zeros(len(rows), dtype=np.int64)).any()


def test_stability_is_the_mean_over_pairs_with_the_jackknife_error():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    labelings = [np.where(rng.random(200) < 0.1, rng.integers(0, 3, 200), truth) for _ in range(5)]
    found = stability_of(labelings)
    pairs = {(i, j): adjusted_rand(labelings[i], labelings[j]) for i in range(5) for j in range(i)}
    assert found.value == pytest.approx(np.mean(list(pairs.values())))
    without = [np.mean([v for pair, v in pairs.items() if left not in pair]) for left in range(5)]
    assert found.se == pytest.approx(math.sqrt(4 / 5 * np.square(without - np.mean(without)).sum()))


def test_stability_of_equal_and_of_two_clusterings():
    labels = np.array([0, 0, 1, 1, 2])
    assert stability_of([labels] * 4).value == 1.0 and stability_of([labels] * 4).se == 0.0
    assert stability_of([labels, labels]).se == 0.0
