"""k-means of points whose sign is free: `z` and `-z` are one point.

In: points `(n_points, d)` and a weight for each. Out: a `SignClusters`: for every point its cluster and the sign in
which it joins, and the weighted centroids. The objective is `sum_i w_i min_k min_(+-) |z_i -+ c_k|^2`; a point
takes the sign of its product with the centroid, so a sweep lowers it as in ordinary k-means. A point at a right angle
to its centroid has two equally good signs and keeps the one it came with. Fewer clusters than asked come back where the
points have fewer distinct places. Seeded, on the CPU, in float64. Points are taken from long to short, so neither their
order nor a common scale changes what is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tclora.errors import ConfigError

__all__ = ["SignClusters", "sign_kmeans"]

# Squared distances below this share of the largest squared norm count as none, and so do cosines below the other.
_SAME_PLACE, _RIGHT_ANGLE = 1e-12, 1e-9


@dataclass(frozen=True)
class SignClusters:
    """`labels` and `signs` per point, `centroids` `(k, d)`, and the weighted sum of squared distances."""

    labels: np.ndarray
    signs: np.ndarray
    centroids: np.ndarray
    inertia: float


def sign_kmeans(
    points: np.ndarray,
    weights: np.ndarray,
    k: int,
    *,
    key: Sequence[int],
    n_starts: int = 10,
    max_iter: int = 100,
) -> SignClusters:
    """Cluster points up to sign by Lloyd's sweeps from `n_starts` seeded k-means++ starts; the best one is returned.

    Args:
        key: what the random numbers belong to; start `s` draws from `default_rng([*key, s])`.

    Raises:
        ConfigError: there are no points, `k`, `n_starts` or `max_iter` is below 1, or a weight is not positive.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
    """
    if min(k, n_starts, max_iter, len(points)) < 1 or not (weights > 0).all():
        raise ConfigError(
            "these points cannot be clustered",
            found=f"{len(points)} points, k {k}, n_starts {n_starts}, max_iter {max_iter}, weights {weights.tolist()}",
            expected="at least one point, cluster, start and sweep, and positive weights",
        )
    order = np.argsort(-(points**2).sum(axis=1), kind="stable")
    points, weights = points[order], weights[order]
    runs = [_lloyd(points, weights, _seeds(points, weights, k, [*key, s]), max_iter) for s in range(n_starts)]
    best, back = min(runs, key=lambda run: run.inertia), np.argsort(order)
    return replace(best, labels=best.labels[back], signs=best.signs[back])


def _seeds(points: np.ndarray, weights: np.ndarray, k: int, key: Sequence[int]) -> np.ndarray:
    """k-means++ with zero as a centroid that is there already, so that large points are likely to come first."""
    generator = np.random.default_rng(list(key))
    squared = (points**2).sum(axis=1)
    chance, chosen = weights * squared, []
    nearest = np.full(len(points), np.inf)
    while len(chosen) < k and chance.sum() > 0:
        chosen.append(int(generator.choice(len(points), p=chance / chance.sum())))
        nearest = np.minimum(nearest, _distances(points, points[chosen[-1]][None])[:, 0])
        nearest[nearest < _SAME_PLACE * squared.max()] = 0
        chance = weights * nearest
    return points[chosen] if chosen else points[:1]


def _lloyd(points: np.ndarray, weights: np.ndarray, centroids: np.ndarray, max_iter: int) -> SignClusters:
    labels, signs = _assign(points, centroids)
    for _ in range(max_iter):
        centroids = _centroids(points, weights, labels, signs, centroids)
        new_labels, new_signs = _assign(points, centroids)
        settled = (new_labels == labels).all() and (new_signs == signs).all()
        labels, signs = new_labels, new_signs
        if settled:
            break
    used, labels = np.unique(labels, return_inverse=True)
    centroids = _centroids(points, weights, labels, signs, centroids[used])
    rest = ((points * signs[:, None] - centroids[labels]) ** 2).sum(axis=1)
    return SignClusters(labels, signs, centroids, float((weights * rest).sum()))


def _distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared distances up to sign, `(n_points, k)`."""
    products = np.abs(points @ centroids.T)
    return np.maximum((points**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1) - 2 * products, 0)


def _assign(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = _distances(points, centroids).argmin(axis=1)
    own = centroids[labels]
    along = (points * own).sum(axis=1)
    rounding = _RIGHT_ANGLE * np.sqrt((points**2).sum(axis=1) * (own**2).sum(axis=1))
    return labels, np.where(along < -rounding, -1.0, 1.0)


def _centroids(
    points: np.ndarray, weights: np.ndarray, labels: np.ndarray, signs: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """Weighted means of the members; a cluster that lost all of them stays where it was."""
    member = (labels[:, None] == np.arange(len(before))) * weights[:, None]
    mass = member.sum(axis=0)[:, None]
    means = member.T @ (points * signs[:, None])
    return np.where(mass > 0, means / np.where(mass > 0, mass, 1), before)
