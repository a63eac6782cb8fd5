"""How good a clustering is, by measures that need no truth: separation, agreement of two clusterings, balance.

In: rows or their distances, and labels 0 to k-1, every one of them used. Out: one number each. Plain numpy in float64,
so the same figures come from every installation; the tests hold them against scikit-learn's.
"""

import math

import numpy as np

from tclora.shapes import Float, Int

__all__ = [
    "adjusted_rand",
    "balance",
    "calinski_harabasz",
    "davies_bouldin",
    "pairwise_distances",
    "silhouette",
    "silhouette_scores",
    "within_dispersion",
]

# Rows rounded to float32 are off by 6e-8 of their size, and its square is 4e-15 of the spread.
_NOTHING = 1e-12


def adjusted_rand(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """How far two clusterings of the same rows agree: 1 if they are the same, 0 on average if they are unrelated.

    Symmetric to the bit, and the numbering of the clusters does not matter. Counted in whole numbers of any size.

    Source: Hubert and Arabie 1985, through pair counts as in scikit-learn.
    """
    width = int(b.max()) + 1 if len(b) else 1
    table = np.bincount(a * width + b).astype(object)
    together = sum(count * count for count in table.tolist())
    squares_a, squares_b = (sum(count * count for count in np.bincount(labels).tolist()) for labels in (a, b))
    both, only_a, only_b = together - len(a), squares_a - together, squares_b - together
    neither = len(a) ** 2 - together - only_a - only_b
    if only_a == 0 and only_b == 0:
        return 1.0
    bottom = (both + only_b) * (only_b + neither) + (both + only_a) * (only_a + neither)
    return 2 * (both * neither - only_a * only_b) / bottom


def balance(amounts: Float[np.ndarray, " k"] | Int[np.ndarray, " k"]) -> float:
    """How evenly something is spread over the clusters: entropy over its largest value, 1 if all hold the same.

    0 if one cluster holds everything. One cluster alone is even: 1.
    """
    if len(amounts) < 2:
        return 1.0
    shares = amounts[amounts > 0] / amounts.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(amounts))) + 0.0


def within_dispersion(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Sum of squared distances of the rows to the means of their clusters."""
    return float(((rows - _means(rows, labels)[labels]) ** 2).sum())


def calinski_harabasz(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Spread between clusters over spread within, each by its degrees of freedom. Higher is better.

    Infinity where every row lies on its cluster's mean. Needs at least two clusters and more rows than clusters.

    Source: Calinski and Harabasz 1974.
    """
    n_clusters = int(labels.max()) + 1
    within = within_dispersion(rows, labels)
    total = float(((rows - rows.mean(axis=0)) ** 2).sum())
    if within <= _NOTHING * total:
        return math.inf
    return (total - within) / within * (len(rows) - n_clusters) / (n_clusters - 1)


def davies_bouldin(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """How far each cluster is mixed with the one nearest to it, on average. Lower is better; 0 at best.

    Two clusters on the same mean count as not comparable, as in scikit-learn.

    Source: Davies and Bouldin 1979.
    """
    means = _means(rows, labels)
    radius = _sums(np.linalg.norm(rows - means[labels], axis=1), labels) / np.bincount(labels)
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    apart[apart == 0] = math.inf
    return float(((radius[:, None] + radius[None]) / apart).max(axis=1).mean())


def pairwise_distances(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Euclidean distances of every row to every other; takes 8 n² bytes."""
    squares = (rows**2).sum(axis=1)
    found = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0)
    np.fill_diagonal(found, 0)
    return np.sqrt(found, out=found)


def silhouette(distances: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> float:
    """How much nearer a row is to its own cluster than to the next one, on average: -1 to 1. Higher is better.

    Source: Rousseeuw 1987.
    """
    return float(silhouette_scores(distances, labels).mean())


def silhouette_scores(distances: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The silhouette of each row. A row that is alone in its cluster scores 0; a number that no row has is passed over.

    With fewer than two clusters every row scores 0.
    """
    sizes = np.bincount(labels)
    rows = np.arange(len(labels))
    members = (labels[:, None] == np.arange(len(sizes))).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        to_cluster = distances @ members
        own = to_cluster[rows, labels] / (sizes[labels] - 1)
        others = to_cluster / sizes
        others[rows, labels] = math.inf
        others[:, sizes == 0] = math.inf
        nearest = others.min(axis=1)
        scores = (nearest - own) / np.maximum(own, nearest)
    scores[(sizes[labels] == 1) | ~np.isfinite(scores)] = 0.0
    return scores


def _means(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "k d"]:
    sizes = np.bincount(labels)
    members = np.zeros((len(sizes), len(rows)))
    members[labels, np.arange(len(rows))] = 1
    return members @ rows.astype(np.float64) / np.maximum(sizes, 1)[:, None]


def _sums(values: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    return np.bincount(labels, weights=values)
