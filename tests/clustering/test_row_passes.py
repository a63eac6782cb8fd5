"""Passes over embeddings that may be larger than memory: the labels of float64, one chunk at a time."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from tclora.clustering import assign_clusters, fit_clusters
from tclora.clustering.passes import assign_rows, inertia_of, means_of
from tclora.clustering.rows import chunk_starts, distinct_rows, for_each_chunk, gather_rows, gathered_chunks
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, NumericalError


def exact_labels(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    apart = rows.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]
    return (apart**2).sum(axis=2).argmin(axis=1)


@pytest.fixture
def mapped(tmp_path):
    def save(rows: np.ndarray) -> np.ndarray:
        np.save(tmp_path / "rows.npy", rows)
        return np.load(tmp_path / "rows.npy", mmap_mode="r")

    return save


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_labels_are_those_of_float64_even_where_float32_cannot_tell(dtype):
    rng = np.random.default_rng(0)
    # Far from the origin and close together: |x|² has 1e4 times the size of the differences.
    rows = (40 + rng.standard_normal((3000, 64)) * 0.1).astype(dtype)
    centroids = (40 + rng.standard_normal((7, 64)) * 0.02).astype(np.float32)
    in_float32 = ((centroids**2).sum(axis=1) - 2 * rows.astype(np.float32) @ centroids.T).argmin(axis=1)
    labels = assign_clusters(rows, centroids)
    assert np.array_equal(labels, exact_labels(rows, centroids))
    if dtype != np.float64:
        assert (in_float32 != labels).any()  # the case is hard enough to tell


def test_many_centroids_near_each_other_are_told_apart(monkeypatch):
    monkeypatch.setattr("tclora.clustering.passes._PAIR_ELEMENTS", 300)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 16)).astype(np.float32)
    centroids = np.repeat(rng.standard_normal((40, 16)), 3, axis=0).astype(np.float32)
    centroids[::3] += 1e-7 * rng.standard_normal((40, 16)).astype(np.float32)  # twins within rounding, and equal ones
    found = assign_rows(rows, centroids)
    assert len(found.close) == len(rows)
    assert np.array_equal(found.labels, exact_labels(rows, centroids))


def test_few_rows_need_float64():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 64)).astype(np.float32)
    found = assign_rows(rows, rng.standard_normal((8, 64)).astype(np.float32))
    assert len(found.close) < 40  # 1 %


def test_exact_ties_go_to_the_lower_index_whatever_the_order_of_rows():
    rows = np.array([[0.1, 0.3], [0.2, 0.7], [-1.3, 0.9]] * 50, dtype=np.float32)
    centroids = np.array([[1, 0.5], [-1, 0.5], [1, 0.5]], dtype=np.float32)
    rows[:, 0] = np.where(np.arange(150) % 2, 0, rows[:, 0])
    assert np.array_equal(assign_clusters(rows, centroids), exact_labels(rows, centroids))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_chunks_change_nothing(n, k, d, elements, seed):
    rng = np.random.default_rng(seed)
    rows, centroids = rng.integers(-2, 3, (n, d)).astype(np.float32), rng.integers(-2, 3, (k, d)).astype(np.float32)
    whole = assign_rows(rows, centroids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", elements)
        parts = assign_rows(rows, centroids)
    assert np.array_equal(whole.labels, parts.labels)
    assert np.array_equal(whole.labels, exact_labels(rows, centroids))
    # Whole numbers below 2**24 are exact in float32; the mean is divided once.
    assert whole.inertia == pytest.approx(parts.inertia, rel=1e-12, abs=1e-12)


def test_inertia_is_exact_for_tight_clusters_far_from_the_origin():
    rng = np.random.default_rng(0)
    centroids = 100 * rng.standard_normal((3, 32)).astype(np.float32)
    labels = rng.integers(0, 3, 900)
    rows = centroids[labels] + 1e-3 * rng.standard_normal((900, 32)).astype(np.float32)
    expected = ((rows.astype(np.float64) - centroids[labels]) ** 2).sum(axis=1).mean()
    found = assign_rows(rows, centroids)
    # Differences of stored rows are taken in float64, so nothing is lost but the order of addition.
    assert found.inertia == pytest.approx(expected, rel=1e-12)
    assert inertia_of(rows, labels, centroids) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_means_are_those_of_float64(spread):
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((4, 16))
    labels = rng.integers(0, 4, 5000)
    rows = (centers[labels] + spread * rng.standard_normal((5000, 16))).astype(np.float32)
    found = means_of(rows, labels, 4)
    means = np.stack([rows[labels == index].astype(np.float64).mean(axis=0) for index in range(4)])
    # Sums of a chunk are float32: 2**-24 for each of log2 of its rows, of values near 4.
    assert np.abs(found.centroids - means).max() < 1e-5
    assert found.sizes.tolist() == np.bincount(labels).tolist()
    expected = ((rows.astype(np.float64) - means[labels]) ** 2).sum(axis=1).mean()
    assert found.inertia == pytest.approx(expected, rel=1e-4)


def test_a_memory_map_gives_what_the_array_gives(mapped, monkeypatch):
    monkeypatch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", 3000)
    rows = np.random.default_rng(0).standard_normal((2000, 33)).astype(np.float32)
    config = ClusterConfig(n_init=2, sample_fraction=0.3)
    ours, theirs = (fit_clusters(part, config, n_clusters=5, seed=0) for part in (rows, mapped(rows)))
    assert np.array_equal(ours.labels, theirs.labels)
    assert ours.model.centroids.tobytes() == theirs.model.centroids.tobytes()
    assert ours.model.inertia == theirs.model.inertia


def test_views_of_a_memory_map_read_the_right_rows(mapped, monkeypatch):
    """A view keeps its map's offset; pages that are given back must be those that were read."""
    monkeypatch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", 3000)
    rows = np.random.default_rng(0).standard_normal((3000, 40)).astype(np.float32)
    whole = mapped(rows)
    centroids = rows[:4].copy()
    for view, plain in ((whole[1000:2500], rows[1000:2500]), (whole[::2], rows[::2]), (whole[:, :40:1], rows)):
        assert np.array_equal(assign_clusters(view, centroids), assign_clusters(plain, centroids))
    assert np.array_equal(whole, rows)


def test_gathered_rows_are_the_rows(mapped):
    rows = np.arange(12_000, dtype=np.float16).reshape(-1, 6) % 97
    places = np.array([0, 5, 6, 1000, 1999])
    assert np.array_equal(gather_rows(mapped(rows), places), rows[places].astype(np.float32))
    pieces = list(gathered_chunks(rows, places))
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces]), places)


def test_distinct_rows_are_the_first_of_each_kind():
    rows = np.array([[1, 0], [1, -0.0], [2, 0], [1, 0], [3, 0]], dtype=np.float32)
    assert distinct_rows(rows, 9) == [0, 2, 4]
    assert distinct_rows(rows, 2) == [0, 2]


def test_rare_rows_that_a_sample_misses_are_added():
    rows = np.repeat(np.eye(6, dtype=np.float32), [3000, 1, 1, 1, 1, 1], axis=0)
    found = fit_clusters(rows, ClusterConfig(sample_fraction=0.01, n_init=2), n_clusters=6, seed=0)
    assert found.model.sizes == (3000, 1, 1, 1, 1, 1)
    assert found.model.sample_size < 310


def test_the_first_bad_row_of_all_is_named(monkeypatch):
    monkeypatch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", 400)
    rows = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    rows[2222, 1] = np.inf
    rows[777, 7] = np.nan
    for fraction in (0.1, 1.0):
        with pytest.raises(NumericalError, match="row 777"):
            fit_clusters(rows, ClusterConfig(sample_fraction=fraction), n_clusters=3, seed=1)
    with pytest.raises(NumericalError, match="row 777"):
        means_of(rows, np.zeros(3000, dtype=np.int64), 1)


def test_rows_whose_squares_overflow_float32_are_finite_all_the_same():
    rows = np.array([[3e25, 0], [0, 3e25], [1, 1]], dtype=np.float32)
    centroids = np.array([[3e25, 0], [0, 3e25], [0, 0]], dtype=np.float32)
    assert assign_clusters(rows, centroids).tolist() == [0, 1, 2]


def test_results_come_in_order_from_several_threads(monkeypatch):
    monkeypatch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", 8)
    rows = np.arange(400, dtype=np.float32).reshape(-1, 4)
    found = list(for_each_chunk(rows, lambda start, part: (start, float(part[0, 0]))))
    assert found == [(start, start * 4.0) for start in chunk_starts(rows)]


def test_bytes_do_not_depend_on_threads(monkeypatch):
    code = (
        "import hashlib, sys, numpy as np\nfrom tclora.config import ClusterConfig\n"
        "from tclora.clustering import fit_clusters\nimport tclora.clustering.rows as r\nr._CHUNK_ELEMENTS = 2**14\n"
        "rows = np.random.default_rng(0).standard_normal((6000, 48)).astype(np.float32)\n"
        "for engine in sys.argv[1:]:\n"
        "    found = fit_clusters(rows, ClusterConfig(n_init=2, engine=engine), n_clusters=6, seed=3)\n"
        "    print(hashlib.sha256(found.labels.tobytes() + found.model.centroids.tobytes()).hexdigest(),"
        " found.model.inertia)"
    )
    pytest.importorskip("faiss")
    # Two threads there, one here; a start of Python is most of what this costs.
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code, "scikit-learn", "faiss"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    monkeypatch.setattr("tclora.clustering.rows._CHUNK_ELEMENTS", 2**14)
    rows = np.random.default_rng(0).standard_normal((6000, 48)).astype(np.float32)
    expected = []
    for engine in ("scikit-learn", "faiss"):
        with threadpool_limits(limits=1):
            found = fit_clusters(rows, ClusterConfig(n_init=2, engine=engine), n_clusters=6, seed=3)
        digest = hashlib.sha256(found.labels.tobytes() + found.model.centroids.tobytes()).hexdigest()
        expected.append(f"{digest} {found.model.inertia}")
    assert done.stdout.splitlines() == expected


def test_importing_the_room_loads_no_torch_and_no_scikit_learn():
    code = "import sys, tclora.clustering; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sklearn", "faiss", "transformers"} & set(done.stdout.split())


def test_more_clusters_than_distinct_rows_are_refused_for_a_sample_too():
    rows = np.repeat(np.eye(5, dtype=np.float32), 500, axis=0)
    with pytest.raises(ConfigError, match="5 distinct embeddings in 2500 examples, 6 clusters"):
        fit_clusters(rows, ClusterConfig(sample_fraction=0.1), n_clusters=6, seed=0)
