"""The search over k: planted numbers found, one cloud told as one, determinism, and what cannot be searched refused."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from planted_groups import blobs, cloud, nested

from tclora.clustering import choose_n_clusters
from tclora.clustering.choice_rule import has_structure, reasons, suggestions
from tclora.clustering.k_curve import Floor, make_trials, measure
from tclora.clustering.search_space import boxed_rows, normal_rows, principal_axes, search_space
from tclora.clustering.short_runs import nearest, short_runs
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, DataError, MissingExtraError, NumericalError
from tclora.records import NClustersPoint, NClustersRecord, from_json, to_json


def auto(**settings) -> ClusterConfig:
    return ClusterConfig(n_clusters="auto", **{"n_resamples": 4, **settings})


@pytest.mark.parametrize(
    ("sizes", "d", "seed"),
    [
        ((150, 150), 2, 0),
        ((120, 110, 100), 4, 1),
        ((200, 120, 80, 60, 40), 16, 2),
        pytest.param((60,) * 6, 64, 3, marks=pytest.mark.slow),
        pytest.param((200, 100, 60, 40, 30, 30, 30), 24, 4, marks=pytest.mark.slow),
        ((40,) * 10, 8, 5),
    ],
)
def test_planted_groups_are_counted(sizes, d, seed):
    rows, _ = blobs(sizes, d, seed)
    candidates = tuple(k for k in range(2, 13) if abs(k - len(sizes)) in (0, 1, 3))
    record = choose_n_clusters(rows, auto(candidates=candidates), seed=seed)
    assert record.n_clusters == len(sizes)
    assert record.structure
    assert record.reasons.startswith(f"K={len(sizes)}: stability ")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sizes", [(80,) * 3, (400, 200, 100, 50, 50, 40), (60,) * 12, (100,) * 20])
@pytest.mark.parametrize("d", [8, 768])
def test_planted_groups_are_counted_with_the_default_candidates(sizes, d, seed):
    rows, _ = blobs(sizes, d, seed, apart=12)
    assert choose_n_clusters(rows, ClusterConfig(n_clusters="auto"), seed=seed).n_clusters == len(sizes)


@pytest.mark.parametrize("shape", ["round", "long", "heavy"])
def test_one_cloud_is_told_as_one(shape):
    record = choose_n_clusters(cloud(shape, 600, 12, seed=0), auto(candidates=(2, 3, 5)), seed=0)
    assert (record.n_clusters, record.structure) == (1, False)
    assert "no structure was found" in record.reasons


def test_another_rule_splits_one_cloud_but_says_so():
    record = choose_n_clusters(cloud("round", 400, 6, seed=0), auto(candidates=(2, 3), rule="silhouette"), seed=0)
    assert record.n_clusters == record.suggestions["silhouette"] > 1
    assert "No structure was found" in record.reasons


def test_of_nested_groups_the_finer_are_chosen():
    record = choose_n_clusters(nested(0), auto(candidates=(3, 6, 9, 11)), seed=0)
    assert record.n_clusters == 9
    by_k = {point.n_clusters: point for point in record.points}
    # Both levels come back from every resample; what lies between them does not.
    assert by_k[3].stability == by_k[9].stability == 1.0
    assert by_k[6].stability < 0.95


def test_duplicates_are_groups_and_their_infinite_measures_are_none():
    rows = np.repeat(np.eye(5, 8, dtype=np.float32), [60, 50, 40, 30, 20], axis=0)
    record = choose_n_clusters(rows, auto(), seed=0)
    assert record.n_clusters == 5
    last = record.points[-1]
    assert last.n_clusters == 5  # more clusters than kinds of rows are not tried
    assert (last.calinski_harabasz, last.gap) == (None, None)
    assert last.within == pytest.approx(0, abs=1e-12)
    assert "not tried for too few rows: 6, 7" in record.notes[0] and "5 distinct" in record.notes[0]
    assert set(record.suggestions.values()) == {5}


def test_too_few_rows_for_any_split_are_one_cluster():
    record = choose_n_clusters(cloud("round", 12, 3, seed=0), auto(), seed=0)
    assert record.n_clusters == 1 and len(record.points) == 1
    assert "12 rows are too few to split into clusters of 16 or more" in record.reasons
    one = choose_n_clusters(np.ones((1, 3), np.float32), auto(), seed=0)
    assert one.n_clusters == 1
    alike = choose_n_clusters(np.ones((200, 3), np.float32), auto(), seed=0)
    assert alike.n_clusters == 1 and "200 sampled rows are all alike" in alike.reasons


def test_candidates_that_are_all_too_many_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)too few rows for every candidate.*40 rows.*lower cluster\.choose_min"):
        choose_n_clusters(cloud("round", 40, 3, seed=0), auto(candidates=(8, 16)), seed=0)


def test_no_rows_and_rows_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="nothing to cluster"):
        choose_n_clusters(np.empty((0, 3), np.float32), auto(), seed=0)
    rows = cloud("round", 100, 3, seed=0)
    rows[41, 1] = np.inf
    with pytest.raises(NumericalError, match="row 41"):
        choose_n_clusters(rows, auto(), seed=0)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"tclora\[library\]"):
        choose_n_clusters(cloud("round", 100, 3, seed=0), auto(), seed=0)


def test_equal_inputs_give_equal_records_and_leave_global_state_alone():
    rows, _ = blobs((60, 50, 40), 5, 0)
    np.random.seed(3)  # noqa: NPY002 - it is the global state that must not move
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    told = []
    config = auto(candidates=(2, 3, 4), n_resamples=3)
    one = choose_n_clusters(rows, config, seed=2**40, step=lambda done, total: told.append((done, total)))
    two = choose_n_clusters(rows.astype(np.float64), config, seed=2**40)
    assert one == two == from_json(NClustersRecord, to_json(one))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_sample_stands_for_all_rows(tmp_path):
    rows, _ = blobs((900, 600, 500), 6, 1)
    path = tmp_path / "rows.npy"
    np.save(path, rows.astype(np.float16))
    mapped = np.load(path, mmap_mode="r")
    record = choose_n_clusters(mapped, auto(choose_sample=300, candidates=(2, 3, 4), n_resamples=3), seed=0)
    assert (record.n_clusters, record.sample_size, record.n_rows) == (3, 300, 2000)
    smallest = next(point for point in record.points if point.n_clusters == 3).smallest_rows
    assert 350 < smallest < 650  # 500, by a sample of 300 rows: 75 of them expected, standard deviation 7.5


def test_small_clusters_in_rows_or_tokens_are_not_chosen():
    rows, groups = blobs((200, 150, 30), 8, 0)
    config = auto(candidates=(2, 3, 4))
    assert choose_n_clusters(rows, config, seed=0).n_clusters == 3
    fewer = choose_n_clusters(rows, config.model_copy(update={"min_size": 60}), seed=0)
    assert fewer.n_clusters == 2 and fewer.points[2].smallest_rows == 30 and not fewer.points[2].large_enough
    lengths = np.where(groups == 2, 1, 10)
    tokens = choose_n_clusters(rows, config.model_copy(update={"min_tokens": 100}), seed=0, n_tokens=lengths)
    assert tokens.n_clusters == 2 and tokens.points[2].smallest_tokens == 30
    assert tokens.points[2].balance_tokens < tokens.points[2].balance_rows
    nothing = choose_n_clusters(rows, config.model_copy(update={"choose_min_size": 185}), seed=0)
    assert nothing.n_clusters == 1 and "every split leaves a cluster with too few rows" in nothing.reasons


def test_the_gap_is_that_of_its_definition():
    rows, _ = blobs((70, 60, 50), 3, 0)
    space = search_space(rows, n_rows=1000, n_axes=64, seed=0)
    trials = make_trials(space, None, n_resamples=2, seed=0)
    point = measure(trials, 3, Floor(len(rows), 1, 0))

    def log_within(data):
        labels = nearest(data, short_runs(data, 3, seed=1))
        return np.log(sum(((data[labels == c] - data[labels == c].mean(axis=0)) ** 2).sum() for c in range(3)))

    logs = np.array([log_within(box.astype(np.float64)) for box in trials.boxed])
    # Other starts find the same clusters of the blobs, and of uniform rows others that are 1 % better or worse.
    assert point.gap == pytest.approx(logs.mean() - log_within(space.rows.astype(np.float64)), abs=0.02)
    assert point.gap_se == pytest.approx(logs.std() * np.sqrt(1 + 1 / len(logs)), abs=0.02)


@pytest.mark.parametrize("d", [3, 40])
def test_principal_axes_are_those_of_the_covariance(d, monkeypatch):
    rows = cloud("long", 300, d, seed=0).astype(np.float64)
    center, axes, variances = principal_axes(rows, 3, seed=0)
    covariance = np.cov(rows.T, bias=True)
    assert center == pytest.approx(rows.mean(axis=0))
    # Eigenvectors to eigh's own residual, a few hundred units of rounding of a covariance of norm 1.
    assert np.abs(covariance @ axes - axes * variances).max() < 1e-12
    assert (axes[np.abs(axes).argmax(axis=0), range(3)] > 0).all()
    monkeypatch.setattr("tclora.clustering.search_space._WIDE", 2)
    _, found, spread = principal_axes(rows, 3, seed=0)
    # Twelve rounds with sixteen axes to spare shrink what is left out by (0.38 of its size) to the power of 24.
    assert np.abs(np.abs((axes * found).sum(axis=0)) - 1).max() < 1e-6
    assert spread == pytest.approx(variances, rel=1e-6)


def test_the_reference_rows_have_the_covariance_or_fill_the_box():
    space = search_space(cloud("long", 4000, 4, seed=0), n_rows=4000, n_axes=64, seed=0)
    rng = np.random.default_rng(0)
    assert space.variance_kept == pytest.approx(1.0)
    # The variance of 4,000 normal rows is off by 2.2 % at one standard deviation.
    assert normal_rows(space, rng).var(axis=0) == pytest.approx(space.variances, rel=0.1)
    box = boxed_rows(space, rng)
    assert (box.min(axis=0) >= space.rows.min(axis=0)).all() and (box.max(axis=0) <= space.rows.max(axis=0)).all()
    assert box.std(axis=0) == pytest.approx(np.ptp(space.rows, axis=0) / np.sqrt(12), rel=0.1)


POINT = NClustersPoint(
    n_clusters=2,
    within=1.0,
    smallest_rows=100,
    smallest_tokens=None,
    balance_rows=1.0,
    balance_tokens=None,
    large_enough=True,
    stability=0.9,
    stability_se=0.02,
    silhouette=0.4,
    silhouette_null=0.1,
    silhouette_se=0.01,
    calinski_harabasz=100.0,
    davies_bouldin=1.0,
    gap=1.0,
    gap_se=0.01,
)
ONE = replace(
    POINT, n_clusters=1, stability=None, silhouette=None, calinski_harabasz=None, davies_bouldin=None, gap=0.0
)


def curve(*stabilities: float, **figures) -> list[NClustersPoint]:
    found = [replace(POINT, n_clusters=2 + i, stability=value) for i, value in enumerate(stabilities)]
    for name, values in figures.items():
        found = [replace(point, **{name: value}) for point, value in zip(found, values, strict=True)]
    return [ONE, *found]


@pytest.mark.parametrize(
    ("points", "k"),
    [
        (curve(0.9, 0.95, 0.94, 0.7), 4),  # the largest within an error of the best
        (curve(0.9, 0.95, 0.94, 0.7, large_enough=(True, True, False, True)), 3),
        (curve(1.0, 0.995, 0.97, stability_se=(0.0, 0.0, 0.0)), 3),  # a hundredth is nothing
        (curve(1.0, 0.5, 0.95, stability_se=(0.0, 0.1, 0.05)), 4),  # its own error counts as well
        (curve(0.9, 0.95, silhouette=(0.12, 0.14)), 1),  # no more than one normal distribution
        (curve(0.9, 0.95, silhouette=(0.4, 0.1), large_enough=(False, True)), 1),
        (curve(0.9, 0.95, large_enough=(False, False)), 1),
    ],
)
def test_the_rule_of_stability(points, k):
    assert suggestions(points)["stability"] == k


def test_every_rule_reads_its_own_measure():
    points = curve(
        *(0.9, 0.8, 0.7, 0.6),
        silhouette=(0.3, 0.9, 0.5, 0.4),
        calinski_harabasz=(9.0, 1.0, 20.0, 3.0),
        davies_bouldin=(1.0, 2.0, 3.0, 0.5),
        gap=(0.5, 0.505, 0.7, 0.9),
    )
    said = {"stability": 2, "silhouette": 3, "calinski_harabasz": 4, "davies_bouldin": 5, "gap": 2}
    assert suggestions(points) == said
    for rule, k in said.items():
        text = reasons(points, rule, n_rows=1000, too_few="")
        assert text.startswith(f"K={k}: ") and "smallest cluster about 100 of 1,000 rows" in text
    assert "other rules would say: silhouette 3, Calinski-Harabasz 4" in reasons(
        points, "stability", n_rows=1000, too_few=""
    )


def test_structure_needs_an_excess_and_its_significance():
    assert has_structure(curve(0.9))
    assert not has_structure(curve(0.9, silhouette=(0.149,)))
    assert not has_structure(curve(0.9, silhouette_se=(0.11,)))


def test_the_end_of_the_range_is_told():
    text = reasons(curve(0.7, 0.8, 0.95), "stability", n_rows=10, too_few="")
    assert "It is the largest number tried" in text
    assert "largest number tried" not in reasons(curve(0.95, 0.7), "stability", n_rows=10, too_few="")
    assert "the largest number within one standard error of the best (0.95 at K=3)" in reasons(
        curve(0.7, 0.95, 0.94, 0.7), "stability", n_rows=10, too_few=""
    )


def two_figures(*figures: tuple[int, float, float]) -> list[NClustersPoint]:
    """Points of a curve from (k, stability, silhouette), all of them large enough and far above one normal cloud."""
    first = replace(POINT, n_clusters=1, stability=None, stability_se=None, silhouette=None)
    errors = {"stability_se": 0.005, "silhouette_se": 0.005, "silhouette_null": 0.0, "large_enough": True}
    return [first, *(replace(POINT, n_clusters=k, stability=s, silhouette=c, **errors) for k, s, c in figures)]


def test_a_later_peak_wins_where_clusters_are_far_better_separated():
    # As on the shared mixture: two halves come back each time, and so do the two dozen tasks.
    points = two_figures((2, 0.98, 0.14), (8, 0.81, 0.26), (16, 0.80, 0.36), (24, 0.92, 0.42), (28, 0.90, 0.42))
    assert suggestions(points)["stability"] == 24
    told = reasons(points, "stability", n_rows=1000, too_few="")
    assert "later peak within 0.1 of the best (0.98 at K=2)" in told and "0.42 against 0.14" in told


@pytest.mark.parametrize(
    "figures",
    [
        # Past the true number separation falls: a second peak of stability is chance.
        ((2, 0.80, 0.30), (6, 1.00, 0.70), (8, 0.91, 0.60), (10, 0.95, 0.55), (12, 0.90, 0.50)),
        # A later peak that is far less stable, however well separated.
        ((2, 0.80, 0.20), (6, 1.00, 0.30), (8, 0.70, 0.40), (10, 0.85, 0.60), (12, 0.80, 0.60)),
        # Separation within its errors.
        ((2, 0.80, 0.20), (6, 1.00, 0.50), (8, 0.90, 0.50), (10, 0.95, 0.51), (12, 0.90, 0.50)),
    ],
)
def test_any_other_later_peak_does_not(figures):
    assert suggestions(two_figures(*figures))["stability"] == 6
