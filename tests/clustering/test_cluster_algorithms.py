"""One contract for every clustering algorithm, and what each of them refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest
from planted_clusters import planted_facts, planted_library, planted_rows
from sklearn.metrics import adjusted_rand_score

from tclora.clustering import CLUSTER_ALGORITHMS, ExampleFacts, assign_clusters, assign_examples, fit_clusters
from tclora.clustering.kmeans import FAISS_FROM_ROWS
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, MissingExtraError, NumericalError, ShapeError

NAMES = tuple(CLUSTER_ALGORITHMS)
# Those that put every row where its content belongs; `random` must not.
BY_CONTENT = tuple(name for name in NAMES if name != "random")
BY_CENTROID = tuple(name for name in NAMES if CLUSTER_ALGORITHMS.entry(name).facts["fits"])


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return planted_library(tmp_path_factory.mktemp("library"))


def fit(rows, groups, library, name, k=4, seed=0, **settings):
    config = ClusterConfig(algorithm=name, n_init=3, **settings)
    return fit_clusters(rows, config, n_clusters=k, seed=seed, facts=planted_facts(groups, library))


def test_every_name_of_the_settings_is_registered_and_no_other():
    from typing import get_args

    from tclora.config.schema import ClusterAlgorithmName

    assert sorted(get_args(ClusterAlgorithmName)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_is_in_its_page(name):
    page = (Path(__file__).resolve().parents[2] / "docs" / "clustering.md").read_text()
    assert f"| `{name}` |" in page
    assert CLUSTER_ALGORITHMS.entry(name).summary


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_in_range_and_no_cluster_is_empty(name, library):
    rows, groups = planted_rows()
    found = fit(rows, groups, library, name)
    assert np.array_equal(np.unique(found.labels), np.arange(4))
    assert found.labels.dtype == np.int64 and found.labels.shape == (len(rows),)
    assert found.model.sizes == tuple(np.bincount(found.labels))
    assert list(found.model.sizes) == sorted(found.model.sizes, reverse=True)
    assert found.model.centroids.dtype == np.float32 and found.model.algorithm == name


@pytest.mark.parametrize("sample_fraction", [0.5, 1.0])
@pytest.mark.parametrize("name", BY_CONTENT)
def test_planted_groups_are_found(name, sample_fraction, library):
    rows, groups = planted_rows(seed=1)
    found = fit(rows, groups, library, name, sample_fraction=sample_fraction)
    assert adjusted_rand_score(groups, found.labels) == 1.0
    assert np.array_equal(groups, found.labels)  # planted in descending size


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_bytes(name, library):
    rows, groups = planted_rows(seed=2)
    one, two = (fit(rows, groups, library, name, seed=7) for _ in range(2))
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.model.centroids.tobytes() == two.model.centroids.tobytes()
    assert one.model.inertia == two.model.inertia


@pytest.mark.parametrize("name", BY_CONTENT)
def test_permuted_rows_give_permuted_labels(name, library):
    rows, groups = planted_rows(seed=3)
    order = np.random.default_rng(0).permutation(len(rows))
    straight = fit(rows, groups, library, name, sample_fraction=1)
    tasks = [planted_facts(groups).tasks[place] for place in order]
    facts = ExampleFacts(tasks=tasks, library=library)
    config = ClusterConfig(algorithm=name, n_init=3, sample_fraction=1)
    shuffled = fit_clusters(rows[order], config, n_clusters=4, seed=0, facts=facts)
    assert np.array_equal(straight.labels[order], shuffled.labels)


@pytest.mark.parametrize("name", NAMES)
def test_one_cluster_is_the_whole(name, library):
    rows, groups = planted_rows(seed=4)
    found = fit(rows, groups, library, name, k=1)
    assert not found.labels.any() and found.model.sizes == (len(rows),)


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_refused_by_its_row(name, library):
    rows, groups = planted_rows()
    rows[41, 3] = np.nan
    with pytest.raises(NumericalError, match="row 41"):
        fit(rows, groups, library, name)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_distinct_rows_than_clusters_are_refused(name, library):
    _, groups = planted_rows()
    rows = np.eye(24, dtype=np.float32)[np.minimum(groups, 2)]
    with pytest.raises(ConfigError, match="3 distinct embeddings"):
        fit(rows, groups, library, name)


@pytest.mark.parametrize("name", NAMES)
def test_inertia_is_the_mean_squared_distance_to_the_own_centroid(name, library):
    rows, groups = planted_rows(seed=5)
    model = (found := fit(rows, groups, library, name)).model
    apart = rows.astype(np.float64) - model.centroids[found.labels]
    # Chunk sums are float32: errors of 1e-7 of norms of 1, against distances from 0.04.
    assert model.inertia == pytest.approx((apart**2).sum(axis=1).mean(), rel=1e-4)


@pytest.mark.parametrize("name", BY_CENTROID)
def test_labels_are_those_of_the_nearest_centroid(name, library):
    rows, groups = planted_rows(seed=6)
    found = fit(rows, groups, library, name)
    assert np.array_equal(found.labels, assign_clusters(rows, found.model.centroids))
    assert np.array_equal(found.labels, assign_examples(found.model, rows))


@pytest.mark.parametrize("name", BY_CENTROID)
def test_half_precision_rows_are_clustered_alike(name, library):
    rows, groups = planted_rows(seed=7)
    found = fit(rows.astype(np.float16), groups, library, name)
    assert np.array_equal(found.labels, groups)


@pytest.mark.parametrize("name", ["kmeans", "spherical_kmeans", "minibatch_kmeans", "agglomerative"])
def test_without_scikit_learn_the_extra_is_named(name, library, monkeypatch):
    rows, groups = planted_rows()
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"tclora\[library\]"):
        fit(rows, groups, library, name)


def test_an_unknown_engine_package_is_named(monkeypatch, library):
    rows, groups = planted_rows()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"tclora\[faiss\]"):
        fit(rows, groups, library, "kmeans", engine="faiss")


@pytest.mark.parametrize("name", ["kmeans", "spherical_kmeans"])
def test_faiss_finds_what_scikit_learn_finds(name, library):
    pytest.importorskip("faiss")
    rows, groups = planted_rows(seed=8)
    ours, theirs = (fit(rows, groups, library, name, engine=engine) for engine in ("scikit-learn", "faiss"))
    assert theirs.model.engine == "faiss" and ours.model.engine != "faiss"
    assert np.array_equal(ours.labels, theirs.labels)
    # Means of at most 160 float32 rows.
    assert np.abs(ours.model.centroids - theirs.model.centroids).max() < 1e-5


def test_small_samples_stay_with_scikit_learn(library):
    rows, groups = planted_rows()
    assert len(rows) < FAISS_FROM_ROWS
    assert fit(rows, groups, library, "kmeans").model.engine == "scikit-learn"


def test_spherical_centroids_have_unit_length_and_lengths_do_not_count(library):
    rows, groups = planted_rows(seed=9)
    scaled = rows * np.random.default_rng(0).uniform(0.1, 9, (len(rows), 1)).astype(np.float32)
    scaled[0] = 0  # a row without a direction takes no part, and is still assigned
    found = fit(scaled, groups, library, "spherical_kmeans")
    assert np.linalg.norm(found.model.centroids, axis=1) == pytest.approx(1, abs=1e-6)  # float32 rounding
    assert np.array_equal(found.labels[1:], groups[1:])


def test_spherical_kmeans_of_zero_rows_is_refused(library):
    rows = np.zeros((40, 24), dtype=np.float32)
    rows[:3] = np.eye(24)[:3]
    with pytest.raises(ConfigError, match="3 rows that are not zero"):
        fit(rows, np.zeros(40, dtype=int), library, "spherical_kmeans")


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("name", ["hdbscan", "spectral", "agglomerative"])
def test_groups_are_joined_or_split_to_the_number_asked_for(name, k, library):
    rows, groups = planted_rows(seed=10)
    found = fit(rows, groups, library, name, k=k, sample_fraction=1)
    assert found.model.n_clusters == k
    purity = [np.bincount(groups[found.labels == index]).max() / size for index, size in enumerate(found.model.sizes)]
    if k >= 4:
        assert min(purity) == 1  # a split never mixes groups
    else:
        joined = [len(set(found.labels[groups == group].tolist())) for group in range(4)]
        assert joined == [1, 1, 1, 1]  # nor does a join tear one apart


def test_hdbscan_says_what_it_found(library):
    rows, groups = planted_rows()
    notes = " ".join(fit(rows, groups, library, "hdbscan", k=3, sample_fraction=1).model.notes)
    assert "found 4 groups" in notes and "joined to 3" in notes


def test_hdbscan_without_density_is_refused(library):
    rows = np.random.default_rng(0).standard_normal((300, 15)).astype(np.float32)
    with pytest.raises(ConfigError, match="no dense group"):
        fit(rows, np.zeros(300, dtype=int), library, "hdbscan", sample_fraction=1)


@pytest.mark.parametrize(("name", "most"), [("agglomerative", 5_000), ("hdbscan", 10_000), ("spectral", 3_000)])
def test_samples_of_quadratic_algorithms_are_bounded(name, most):
    assert CLUSTER_ALGORITHMS.entry(name).facts["max_rows"] == most


def test_max_sample_bounds_the_sample(library):
    rows, groups = planted_rows()
    found = fit(rows, groups, library, "kmeans", max_sample=100, sample_fraction=1)
    assert found.model.sample_size == 100


def test_linkage_decides_what_is_joined():
    """Two groups of 100 at distance 2 and one row at distance 8: Ward joins what is small, average what is near."""
    places = np.repeat([0.0, 2.0, 10.0], [100, 100, 1])
    rows = np.random.default_rng(0).standard_normal((201, 3)) * 0.1 + places[:, None] * np.array([1, 0, 0])
    sizes = {}
    for linkage in ("ward", "average"):
        config = ClusterConfig(algorithm="agglomerative", linkage=linkage, sample_fraction=1)
        sizes[linkage] = fit_clusters(rows.astype(np.float32), config, n_clusters=2, seed=0).model.sizes
    assert sizes == {"ward": (101, 100), "average": (200, 1)}


def test_random_clusters_have_the_sizes_of_kmeans_and_none_of_its_content(library):
    rows, groups = planted_rows()
    found, reference = (fit(rows, groups, library, name) for name in ("random", "kmeans"))
    assert found.model.sizes == reference.model.sizes
    # Labels drawn at random have an expected index of 0; 430 rows keep it within 0.05.
    assert abs(adjusted_rand_score(reference.labels, found.labels)) < 0.05
    assert np.array_equal(np.sort(found.labels), np.sort(reference.labels))


def test_new_examples_of_random_clusters_are_dealt_out_in_their_shares(library):
    rows, groups = planted_rows()
    model = fit(rows, groups, library, "random").model
    labels = assign_examples(model, rows[:43], seed=3)
    assert np.bincount(labels).tolist() == [16, 12, 9, 6]  # a tenth of the sizes, exactly
    assert np.array_equal(labels, assign_examples(model, rows[:43], seed=3))
    assert not np.array_equal(labels, assign_examples(model, rows[:43], seed=4))


def test_facts_of_another_length_are_refused():
    rows, groups = planted_rows()
    with pytest.raises(ShapeError, match="differ in number"):
        fit_clusters(rows, ClusterConfig(), n_clusters=2, seed=0, facts=planted_facts(groups[:-1]))


def test_no_clusters_are_refused():
    with pytest.raises(ConfigError, match="nothing to fit"):
        fit_clusters(planted_rows()[0], ClusterConfig(), n_clusters=0, seed=0)
