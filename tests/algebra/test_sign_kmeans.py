"""k-means up to sign against every assignment there is, and against planted clusters."""

from itertools import product

import numpy as np
import pytest

from tclora.algebra.sign_kmeans import sign_kmeans
from tclora.errors import ConfigError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def inertia_of(points, weights, labels, signs):
    """Weighted squared distances of signed points to the weighted means of their clusters."""
    total = 0.0
    for label in set(labels):
        rows = np.array([i for i, x in enumerate(labels) if x == label])
        signed = points[rows] * np.array(signs)[rows, None]
        mean = np.average(signed, axis=0, weights=weights[rows])
        total += float((weights[rows] * ((signed - mean) ** 2).sum(axis=1)).sum())
    return total


@pytest.mark.parametrize("seed", range(4))
def test_many_starts_find_the_best_of_all_assignments(seed):
    points, weights = normal(6, 3, seed=seed), np.random.default_rng(seed).uniform(0.5, 2, 6)
    every = (
        inertia_of(points, weights, labels, (1.0, *signs))
        for labels in product((0, 1), repeat=6)
        for signs in product((1.0, -1.0), repeat=5)
    )
    found = sign_kmeans(points, weights, 2, key=[seed], n_starts=20)
    assert found.inertia == pytest.approx(min(every), rel=1e-12)


def test_the_parts_belong_together():
    points, weights = normal(30, 5), np.ones(30)
    found = sign_kmeans(points, weights, 4, key=[0])
    assert found.inertia == pytest.approx(inertia_of(points, weights, found.labels.tolist(), found.signs), rel=1e-12)
    for k, center in enumerate(found.centroids):
        rows = found.labels == k
        assert np.allclose(center, (points[rows] * found.signs[rows, None]).mean(axis=0))
    distances = np.minimum(*(((s * points[:, None] - found.centroids) ** 2).sum(axis=2) for s in (1, -1)))
    assert (distances.argmin(axis=1) == found.labels).all()


def test_planted_clusters_are_found_whatever_the_signs():
    centers = 10 * normal(4, 6)
    owner = np.arange(40) % 4
    flips = np.where(normal(40, seed=1) < 0, -1.0, 1.0)
    points = flips[:, None] * (centers[owner] + 0.1 * normal(40, 6, seed=2))
    found = sign_kmeans(points, np.ones(40), 4, key=[0])
    pairs = set(zip(owner.tolist(), found.labels.tolist(), strict=True))
    assert len(pairs) == 4
    # Within a cluster the signs found undo those planted, up to one sign for all.
    for k in range(4):
        assert len(set((found.signs * flips)[found.labels == k])) == 1


def test_neither_order_nor_scale_nor_rotation_changes_what_is_found():
    points, weights = normal(25, 4), np.random.default_rng(3).uniform(0.5, 2, 25)
    order = np.random.default_rng(4).permutation(25)
    turn = np.linalg.qr(normal(4, 4, seed=5))[0]
    first = sign_kmeans(points, weights, 3, key=[7], n_starts=1)
    other = sign_kmeans(100 * points[order] @ turn, weights[order], 3, key=[7], n_starts=1)
    assert (other.labels == first.labels[order]).all()
    assert other.inertia == pytest.approx(1e4 * first.inertia)


def test_repeated_points_are_one_place():
    points = np.repeat(normal(3, 4), 5, axis=0) * np.where(np.arange(15) % 2, -1.0, 1.0)[:, None]
    found = sign_kmeans(points, np.ones(15), 9, key=[0])
    assert (len(found.centroids), found.inertia) == (3, pytest.approx(0, abs=1e-20))


def test_points_that_differ_by_rounding_are_one_place():
    """By the rounding of float32, in which factors are stored."""
    points = np.repeat(normal(3, 4), 5, axis=0) + 1e-7 * normal(15, 4, seed=1)
    assert len(sign_kmeans(points, np.ones(15), 9, key=[0]).centroids) == 3


@pytest.mark.parametrize("seed", range(8))
def test_points_at_right_angles_to_a_centroid_keep_their_sign(seed):
    """Two orthogonal points in one cluster: either relative sign is optimal, the one given is taken.

    Turned, so that their product is rounding of either sign.
    """
    points = np.array([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]]) @ np.linalg.qr(normal(3, 3, seed=seed))[0]
    found = sign_kmeans(points, np.ones(2), 1, key=[0])
    assert np.allclose(found.centroids[0], points.mean(axis=0), atol=1e-15)


def test_zero_points_are_one_cluster():
    found = sign_kmeans(np.zeros((3, 2)), np.ones(3), 2, key=[0])
    assert (found.centroids.tolist(), found.inertia) == ([[0.0, 0.0]], 0.0)


@pytest.mark.parametrize(
    ("points", "weights", "options"),
    [
        (np.zeros((0, 2)), np.ones(0), {"k": 1}),
        (np.ones((3, 2)), np.ones(3), {"k": 0}),
        (np.ones((3, 2)), np.array([1.0, 0.0, 1.0]), {"k": 1}),
        (np.ones((3, 2)), np.ones(3), {"k": 1, "n_starts": 0}),
        (np.ones((3, 2)), np.ones(3), {"k": 1, "max_iter": 0}),
    ],
)
def test_what_cannot_be_clustered_is_refused(points, weights, options):
    with pytest.raises(ConfigError, match="cannot be clustered"):
        sign_kmeans(points, weights, key=[0], **options)
