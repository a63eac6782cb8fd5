"""Clustering: planted groups recovered, the same bits everywhere, and what cannot be clustered refused."""

import hashlib
import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from tclora.clustering import (
    ClusterModel,
    assign_clusters,
    fit_clusters,
    load_clusters,
    save_clusters,
    summarize_clusters,
)
from tclora.config import ClusterConfig
from tclora.data import Example, Turn
from tclora.errors import ArtifactError, ConfigError, MissingExtraError, NumericalError, ShapeError
from tclora.records import ClusterRecord, from_json, to_json

SIZES = (400, 250, 150, 90, 60)


def _planted(seed: int = 0, d_embed: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around orthogonal directions, far closer to each other than to another group; and their groups."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    rows = np.eye(d_embed)[groups] + 0.05 * rng.standard_normal((len(groups), d_embed))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), groups


@pytest.mark.parametrize("sample_fraction", [0.2, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_planted_groups_are_recovered_and_numbered_by_size(sample_fraction, seed):
    rows, groups = _planted()
    config = ClusterConfig(n_clusters=5, sample_fraction=sample_fraction)
    found = fit_clusters(rows, config, n_clusters=5, seed=seed)
    model, labels = found.model, assign_clusters(rows, found.model.centroids)
    assert np.array_equal(found.labels, labels)
    assert adjusted_rand_score(groups, labels) == 1.0
    assert np.array_equal(labels, groups)  # the groups are planted in descending size
    assert model.sample_size == (len(rows) if sample_fraction == 1 else 250)  # 50 for each cluster beat 20 % of 950


def test_centroids_are_means_and_inertia_is_the_mean_squared_distance():
    rows, groups = _planted()
    model = fit_clusters(rows, ClusterConfig(n_clusters=5, sample_fraction=1), n_clusters=5, seed=0).model
    means = np.stack([rows[groups == group].astype(np.float64).mean(axis=0) for group in range(5)])
    # scikit-learn adds up 400 float32 rows; each addition rounds at 2**-24 of a sum near 1 after division.
    assert np.abs(model.centroids - means).max() < 1e-5
    assert model.inertia == pytest.approx(((rows - means[groups]) ** 2).sum(axis=1).mean(), rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_assignment_is_the_brute_force_nearest(n, k, d, seed):
    rng = np.random.default_rng(seed)
    rows, centroids = rng.standard_normal((n, d)), rng.standard_normal((k, d))
    distances = ((rows[:, None] - centroids[None]) ** 2).sum(axis=2)
    assert np.array_equal(assign_clusters(rows, centroids), distances.argmin(axis=1))


def test_ties_go_to_the_lower_index_in_every_chunk(monkeypatch):
    monkeypatch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", 6)  # three rows of two
    rows = np.array([[0, 0], [1, 0], [-1, 0]] * 5, dtype=np.float32)
    centroids = np.array([[1, 0], [-1, 0], [1, 0]], dtype=np.float32)
    assert assign_clusters(rows, centroids).tolist() == [0, 0, 1] * 5


def test_the_order_of_rows_changes_labels_only_by_that_order():
    rows, _ = _planted()
    order = np.random.default_rng(1).permutation(len(rows))
    config = ClusterConfig(n_clusters=5, sample_fraction=1)
    straight, shuffled = (fit_clusters(part, config, n_clusters=5, seed=0).model for part in (rows, rows[order]))
    labels = assign_clusters(rows, straight.centroids)
    assert np.array_equal(labels[order], assign_clusters(rows[order], shuffled.centroids))


def test_the_same_bits_in_every_process_and_at_every_thread_count():
    code = (
        "import hashlib, numpy as np\nfrom tclora.config import ClusterConfig\n"
        "from tclora.clustering import fit_clusters\n"
        "rows = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)\n"
        "model = fit_clusters(rows, ClusterConfig(n_clusters=7), n_clusters=7, seed=3).model\n"
        "print(hashlib.sha256(model.centroids.tobytes()).hexdigest())"
    )
    # Two threads there, one here; a start of Python is most of what this costs.
    environment = os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    rows = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
    with threadpool_limits(limits=1):
        model = fit_clusters(rows, ClusterConfig(n_clusters=7), n_clusters=7, seed=3).model
    assert done.stdout.strip() == hashlib.sha256(model.centroids.tobytes()).hexdigest()


def test_global_random_state_is_left_alone():
    np.random.seed(5)  # noqa: NPY002 - it is the global state that must not move
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fit_clusters(_planted()[0], ClusterConfig(n_clusters=5), n_clusters=5, seed=0)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (np.zeros((0, 4), np.float32), 2, "0 distinct embeddings in 0 examples"),
        (np.ones((1, 4), np.float32), 2, "1 distinct embeddings in 1 examples"),
        (np.ones((50, 4), np.float32), 2, "lower n_clusters to 1 or less"),
        (np.eye(9, dtype=np.float32), 10, "9 distinct embeddings"),
        (np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32), 2, "1 distinct embeddings"),
    ],
)
def test_too_few_distinct_rows_are_refused(rows, k, message):
    with pytest.raises(ConfigError, match=message):
        fit_clusters(rows, ClusterConfig(n_clusters=k), n_clusters=k, seed=0)


def test_as_many_distinct_rows_as_clusters_are_enough():
    rows = np.repeat(np.eye(6, dtype=np.float32), [100, 1, 1, 1, 1, 1], axis=0)
    # A sample may miss the rare rows; then all rows are used.
    model = fit_clusters(rows, ClusterConfig(n_clusters=6, sample_fraction=0.01), n_clusters=6, seed=0).model
    assert len(set(assign_clusters(rows, model.centroids).tolist())) == 6
    assert model.inertia == pytest.approx(0, abs=1e-12)


def test_a_cluster_without_examples_is_refused(monkeypatch):
    centroids = np.array([[1, 0], [0, 1], [9, 9]], dtype=np.float32)
    monkeypatch.setattr("tclora.clustering.kmeans._fitted", lambda *_: centroids)
    rows = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    with pytest.raises(ConfigError, match=r"(?s)1 of 3 clusters empty.*lower n_clusters to 2"):
        fit_clusters(rows, ClusterConfig(n_clusters=3), n_clusters=3, seed=0)


def test_nan_is_refused_by_row():
    rows, _ = _planted()
    rows[17, 3] = np.nan
    with pytest.raises(NumericalError, match="row 17"):
        fit_clusters(rows, ClusterConfig(n_clusters=5), n_clusters=5, seed=0)
    with pytest.raises(NumericalError, match="row 17"):
        assign_clusters(rows, np.eye(16, dtype=np.float32))


def test_no_centroids_or_centroids_of_another_width_are_refused():
    rows = np.ones((3, 4), np.float32)
    # Past the shape annotations, which only tests check.
    plain = inspect.unwrap(assign_clusters)
    for centroids in (np.ones((0, 4), np.float32), np.ones((2, 5), np.float32)):
        with pytest.raises(ShapeError, match="do not fit the embeddings"):
            plain(rows, centroids)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"tclora\[library\]"):
        fit_clusters(_planted()[0], ClusterConfig(n_clusters=5), n_clusters=5, seed=0)


def test_a_saved_model_is_the_same_to_the_bit(tmp_path):
    model = fit_clusters(_planted()[0], ClusterConfig(n_clusters=5), n_clusters=5, seed=0).model
    save_clusters(model, tmp_path / "one")
    loaded = load_clusters(tmp_path / "one")
    save_clusters(loaded, tmp_path / "two")
    assert np.array_equal(loaded.centroids, model.centroids)
    assert (loaded.sample_size, loaded.inertia) == (model.sample_size, model.inertia)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_damaged_cluster_folder_is_refused(tmp_path):
    model = fit_clusters(_planted()[0], ClusterConfig(n_clusters=5), n_clusters=5, seed=0).model
    facts, arrays = tmp_path / "clusters.json", tmp_path / "centroids.npy"

    def refused():
        with pytest.raises(ArtifactError, match=r"cannot be read|not readable JSON"):
            load_clusters(tmp_path)
        save_clusters(model, tmp_path)

    refused()
    facts.write_text("{}")
    refused()
    facts.write_text("[1]")
    refused()
    facts.write_text(facts.read_text().replace('"n_clusters": 5', '"n_clusters": 4'))
    refused()
    arrays.write_bytes(arrays.read_bytes()[:-8])
    refused()
    arrays.unlink()
    refused()


def _story() -> tuple[ClusterModel, list[Example], np.ndarray, np.ndarray]:
    sums = [Example("Add the numbers.", f"{i} and {i}", str(2 * i), "math/add") for i in range(6)]
    paint = [Example(f"Paint the\n house {color} " + "now " * 40, output="done", task="art/paint") for color in "abcd"]
    rows = np.repeat(np.eye(2, dtype=np.float32), [6, 4], axis=0)
    rows[6:, 0] = [0.3, 0.2, 0.1, 0.0]  # the last painting is nearest to its direction
    return ClusterModel(np.eye(2, dtype=np.float32), 10, 0.5), sums + paint, rows, np.repeat([0, 1], [6, 4])


def test_a_summary_states_sizes_words_terms_neighbours_and_tasks():
    model, examples, rows, labels = _story()
    record = summarize_clusters(model, examples, rows, labels, np.array([1, 1, 0]))
    first, second = record.clusters
    assert (record.n_clusters, record.sample_size, record.inertia) == (2, 10, 0.5)
    assert [(c.index, c.n_train, c.n_dev) for c in record.clusters] == [(0, 6, 1), (1, 4, 2)]
    assert first.n_tokens == 6 * (3 + 3 + 1) and second.n_tokens == 4 * (44 + 1)
    assert first.top_terms == ("add", "and", "numbers")  # `the` is everywhere, figures are no words
    assert second.top_terms == ("house", "now", "paint")
    assert first.nearest == ("Add the numbers.",)
    assert [line[:17] for line in second.nearest] == ["Paint the house d", "Paint the house c", "Paint the house b"]
    assert all(len(line) <= 120 and line.endswith("…") for line in second.nearest)
    assert (first.tasks, second.tasks) == ({"math": 6}, {"art": 4})
    assert from_json(ClusterRecord, to_json(record)) == record


def test_a_summary_counts_history_and_says_nothing_of_unknown_tasks():
    examples = [
        Example("Now?", output="yes\x1b[31m", history=(Turn("user", "one two three"),)),
        Example("x\x1b[2J", output="y"),
    ]
    record = summarize_clusters(
        ClusterModel(np.eye(2, dtype=np.float32), 2, 0.0),
        examples,
        np.eye(2, dtype=np.float32),
        np.arange(2),
        np.arange(0),
    )
    assert record.clusters[0].n_tokens == 5 and record.clusters[0].tasks == {}
    assert record.clusters[1].nearest == ("x\\x1b[2J",)


def test_a_summary_of_unequal_parts_is_refused():
    model, examples, rows, labels = _story()
    with pytest.raises(ShapeError, match="do not belong together"):
        summarize_clusters(model, examples[:-1], rows, labels, labels)
