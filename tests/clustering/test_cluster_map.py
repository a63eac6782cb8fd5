"""The map of the clusters: a true projection, the same from the same rows, and few rows refused nothing."""

import sys

import numpy as np
import pytest
from planted_groups import blobs

from tclora.clustering import map_clusters
from tclora.clustering.quality import pairwise_distances
from tclora.errors import MissingExtraError
from tclora.records import ClusterMapRecord, from_json, to_json


def _clustered(sizes=(40, 30, 20), d=6, seed=0):
    rows, groups = blobs(sizes, d, seed)
    return rows, groups, np.stack([rows[groups == group].mean(axis=0) for group in range(len(sizes))])


def test_pca_is_a_projection_on_the_axes_of_largest_variance():
    rows, groups, centroids = _clustered()
    found = map_clusters(rows, groups, centroids, method="pca", seed=0)
    plane = np.column_stack([found.x, found.y])
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    # Coordinates carry four digits after the point; variances of some tens follow to about 1e-3.
    assert (plane**2).sum(axis=0) == pytest.approx(values[:2], rel=1e-3)
    assert found.variance_shares == pytest.approx(values[:2] / values.sum(), abs=1e-3)
    assert found.labels == tuple(groups.tolist()) and found.n_rows == 90
    # A centroid is the mean of its rows in the plane too.
    for group, middle in enumerate(zip(found.centroid_x, found.centroid_y, strict=True)):
        assert plane[groups == group].mean(axis=0) == pytest.approx(middle, abs=1e-3)
    assert from_json(ClusterMapRecord, to_json(found)) == found


def test_of_many_rows_a_sample_is_shown(monkeypatch):
    monkeypatch.setattr("tclora.clustering.cluster_map.N_SHOWN", 50)
    rows, groups, centroids = _clustered((400, 100))
    one, two = (map_clusters(rows, groups, centroids, method="pca", seed=5) for _ in range(2))
    assert one == two and len(one.x) == len(one.labels) == 50 and one.n_rows == 500
    assert one != map_clusters(rows, groups, centroids, method="pca", seed=6)


@pytest.mark.parametrize(
    "rows", [np.ones((5, 1), np.float32), np.ones((1, 4), np.float32), np.eye(3, dtype=np.float32)]
)
def test_rows_without_a_plane_are_drawn(rows):
    labels = np.zeros(len(rows), dtype=np.int64)
    found = map_clusters(rows, labels, rows.mean(axis=0, keepdims=True), method="pca", seed=0)
    assert np.isfinite([*found.x, *found.y, *found.variance_shares]).all()


def test_few_rows_are_not_drawn_by_umap_and_it_is_said():
    rows, groups, centroids = _clustered((10, 8))
    found = map_clusters(rows, groups, centroids, method="umap", seed=0)
    assert found.method == "pca" and found.notes == ("drawn by pca: 18 rows are too few for UMAP",)


def test_without_umap_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"tclora\[umap\]"):
        map_clusters(*_clustered(), method="umap", seed=0)


@pytest.mark.slow
def test_umap_keeps_neighbors_and_gives_the_same_picture():
    pytest.importorskip("umap", reason="needs the extra `umap`")
    rows, groups, centroids = _clustered((80, 60, 40), d=20)
    one, two = (map_clusters(rows, groups, centroids, method="umap", seed=1) for _ in range(2))
    assert one == two
    distances = pairwise_distances(np.column_stack([one.x, one.y]))
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).mean() == 1.0
