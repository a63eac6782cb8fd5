"""Groups made as many as are asked for: the nearest ones joined, the widest ones split.

In: the means and sizes of groups, or rows with their labels. Out: new labels. Joining is by Ward's cost,
`n m / (n + m) |a - b|²`, which is what the sum of squared distances grows by; splitting is by 2-means of the group with
the largest sum. Ties go to the lower index. Refused: nothing; callers know that there are enough distinct rows.

Source: Ward 1963; Steinbach, Karypis and Kumar 2000 (bisecting k-means).
"""

from collections.abc import Callable

import numpy as np

from tclora.shapes import Float, Int

__all__ = ["join_groups", "regroup_rows", "row_means"]


def join_groups(means: Float[np.ndarray, "g d"], sizes: Int[np.ndarray, " g"], k: int) -> Int[np.ndarray, " g"]:
    """The new group, 0 to k-1, of each of `g` groups, after the cheapest pairs were joined until `k` are left."""
    centers, weights = means.astype(np.float64), sizes.astype(np.float64)
    members = [[index] for index in range(len(means))]
    while len(members) > k:
        apart = ((centers[:, None] - centers[None]) ** 2).sum(axis=2)
        costs = apart * weights[:, None] * weights[None] / np.maximum(weights[:, None] + weights[None], 1)
        costs[np.tril_indices(len(members))] = np.inf
        first, second = np.unravel_index(int(costs.argmin()), costs.shape)
        both = [int(first), int(second)]
        centers[first] = np.average(centers[both], axis=0, weights=np.maximum(weights[both], 1e-300))
        weights[first] += weights[second]
        members[both[0]] += members[both[1]]
        del members[both[1]]
        centers, weights = np.delete(centers, second, axis=0), np.delete(weights, second)
    found = np.empty(len(means), dtype=np.int64)
    for index, group in enumerate(members):
        found[group] = index
    return found


def regroup_rows(
    rows: Float[np.ndarray, "s d"],
    labels: Int[np.ndarray, " s"],
    k: int,
    split: Callable[[np.ndarray], np.ndarray],
) -> Int[np.ndarray, " s"]:
    """Labels 0 to k-1: groups joined where there are more, split in two by `split` (rows to 0 or 1) where fewer."""
    _, labels = np.unique(labels, return_inverse=True)
    n_groups = int(labels.max()) + 1
    if n_groups > k:
        return join_groups(row_means(rows, labels, n_groups), np.bincount(labels), k)[labels]
    for new in range(n_groups, k):
        means = row_means(rows, labels, new)
        spread = np.bincount(labels, weights=((rows - means[labels]) ** 2).sum(axis=1), minlength=new)
        widest = np.flatnonzero(labels == int(spread.argmax()))
        labels[widest[split(rows[widest]) == 1]] = new
    return labels


def row_means(rows: Float[np.ndarray, "s d"], labels: Int[np.ndarray, " s"], k: int) -> Float[np.ndarray, "k d"]:
    """The mean of the rows of each label, in float64; every label has rows."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(k))
    return np.add.reduceat(rows[order].astype(np.float64), starts, axis=0) / np.bincount(labels, minlength=k)[:, None]
