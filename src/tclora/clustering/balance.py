"""Sizes held: clusters below a minimum dissolved or refused, clusters above a share trimmed.

In: labels of all rows, centroids, and the settings `min_size`, `min_tokens`, `too_small`, `max_share`, `balanced` and
`balance_by`. Out: labels, with notes that say what was moved. Refused: a minimum that not every cluster can have, a
share too small to hold all rows, lengths that are not known.

Trimming is greedy: of a cluster above its share, the rows leave whose next nearest open cluster is least farther; the
cluster is then closed. So each cluster is trimmed once, and what is left fits the rest. An optimal assignment is a
transport problem (Bradley, Bennett and Demiriz 2000) of a cost that 10^6 rows do not allow.
"""

import math

import numpy as np

from tclora.clustering.model import ExampleFacts
from tclora.clustering.passes import Means, assign_clusters
from tclora.clustering.rows import gathered_chunks
from tclora.config import ClusterConfig
from tclora.errors import ConfigError

__all__ = ["cap_sizes", "check_sizes", "dissolve_groups", "dissolve_small"]

Notes = tuple[str, ...]


def check_sizes(config: ClusterConfig, n_clusters: int, facts: ExampleFacts) -> None:
    """Refuse settings that cannot be met, before anything is fitted.

    Raises:
        ConfigError: `max_share` leaves rows without a cluster, the algorithm fixes who belongs together, or lengths are
            needed and not known.
    """
    capped = config.balanced or config.max_share is not None
    if config.max_share is not None and config.max_share * n_clusters < 1 - 1e-9:
        raise ConfigError(
            "the clusters cannot hold all examples",
            where="cluster.max_share",
            found=f"{n_clusters} clusters of at most {config.max_share:g} of the examples",
            expected=f"at least {1 / n_clusters:.4g}",
            do="raise max_share or n_clusters",
        )
    if capped and config.algorithm in ("task", "mbc"):
        raise ConfigError(
            f"'{config.algorithm}' keeps the examples of a task together, so clusters cannot be trimmed",
            where="cluster.balanced, cluster.max_share",
            do="leave both out, or choose kmeans",
        )
    if facts.n_tokens is None and (config.min_tokens or (capped and config.balance_by == "tokens")):
        raise ConfigError("lengths of the examples are not known", where="cluster.min_tokens, cluster.balance_by")


def dissolve_small(
    embeddings: np.ndarray, centroids: np.ndarray, labels: np.ndarray, config: ClusterConfig, facts: ExampleFacts
) -> tuple[np.ndarray, np.ndarray, Notes]:
    """Take away clusters below the minimum, the smallest first; their rows go to the nearest centroid that is left.

    Returns:
        The centroids kept (ascending indices into `centroids`), labels among those, and what was done.
    """
    kept, labels, sizes = np.arange(len(centroids)), labels.copy(), []
    while (index := _too_small(labels, len(kept), config, facts)) is not None:
        homeless = np.flatnonzero(labels == index)
        sizes.append(len(homeless))
        kept = np.delete(kept, index)
        labels -= labels > index
        for places, rows in gathered_chunks(embeddings, homeless):
            labels[places] = assign_clusters(rows, centroids[kept])
    return kept, labels, _dissolved(sizes, len(centroids), len(kept), config)


def dissolve_groups(
    means: Means, labels: np.ndarray, groups: tuple[tuple[str, ...], ...], config: ClusterConfig, facts: ExampleFacts
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...], Notes]:
    """As `dissolve_small` for clusters that are groups of tasks: the whole group joins the nearest one."""
    before, sizes, joined = len(groups), [], labels
    centroids, weights, names = means.centroids.astype(np.float64), means.sizes.astype(np.float64), list(groups)
    while (index := _too_small(joined, len(names), config, facts)) is not None:
        sizes.append(int(weights[index]))
        apart = ((centroids - centroids[index]) ** 2).sum(axis=1)
        apart[index] = np.inf
        near = int(apart.argmin())
        centroids[near] = np.average(centroids[[near, index]], axis=0, weights=weights[[near, index]])
        weights[near] += weights[index]
        names[near] = tuple(sorted(names[near] + names[index]))
        joined = np.where(joined == index, near, joined)
        joined -= joined > index
        centroids, weights = np.delete(centroids, index, axis=0), np.delete(weights, index)
        del names[index]
    return joined, tuple(names), _dissolved(sizes, before, len(names), config)


def cap_sizes(
    embeddings: np.ndarray, centroids: np.ndarray, labels: np.ndarray, config: ClusterConfig, facts: ExampleFacts
) -> tuple[np.ndarray, Notes]:
    """Trim clusters above `max_share`, or above one over their number where `balanced` is set.

    Counted in rows the bound holds exactly, rounded up to a row; counted in tokens the last cluster may pass it by one
    example for each of the others.
    """
    if not config.balanced and config.max_share is None:
        return labels, ()
    by_tokens = config.balance_by == "tokens"
    weights = np.asarray(facts.n_tokens) if by_tokens else np.ones(len(labels), dtype=np.int64)
    k = len(centroids)
    share = 1 / k if config.balanced else max(float(config.max_share or 1), 1 / k)
    bound = math.ceil(share * int(weights.sum()) - 1e-6)
    before, labels = labels, labels.copy()
    is_open = np.ones(k, dtype=bool)
    while (full := _fullest(labels, weights, is_open, bound)) is not None and is_open.sum() > 1:
        is_open[full] = False
        _trim(embeddings, centroids, labels, (full, bound), (weights, is_open))
    n_moved = int((labels != before).sum())
    unit = "tokens" if by_tokens else "rows"
    note = f"{n_moved:,} examples are not in their nearest cluster: no cluster holds more than {bound:,} {unit}"
    return labels, (note,) if n_moved else ()


def _too_small(labels: np.ndarray, k: int, config: ClusterConfig, facts: ExampleFacts) -> int | None:
    """The smallest of the clusters below the minimum."""
    sizes = np.bincount(labels, minlength=k)
    tokens = None if facts.n_tokens is None else np.bincount(labels, weights=facts.n_tokens, minlength=k)
    below = sizes < config.min_size
    if config.min_tokens and tokens is not None:
        below |= tokens < config.min_tokens
    if not below.any():
        return None
    if config.too_small == "refuse" or k == 1:
        raise _too_small_error(sizes, tokens, below, config)
    candidates = np.flatnonzero(below)
    return int(candidates[np.argmin(sizes[candidates])])


def _too_small_error(
    sizes: np.ndarray, tokens: np.ndarray | None, below: np.ndarray, config: ClusterConfig
) -> ConfigError:
    found = [
        f"{int(sizes[i])} rows" + ("" if tokens is None else f" of {int(tokens[i])} tokens") for i in np.where(below)[0]
    ]
    alone = len(sizes) == 1
    return ConfigError(
        "all examples together are below the minimum" if alone else "clusters are below the minimum",
        where="cluster.min_size, cluster.min_tokens",
        found=", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else ""),
        expected=f"at least {config.min_size} rows" + (f" and {config.min_tokens} tokens" if config.min_tokens else ""),
        do="lower the minimum" + ("" if alone else ", lower n_clusters, or set too_small: dissolve"),
    )


def _dissolved(sizes: list[int], before: int, after: int, config: ClusterConfig) -> Notes:
    if not sizes:
        return ()
    limit = f"{config.min_size:,} rows" + (f" or {config.min_tokens:,} tokens" if config.min_tokens else "")
    rows = ", ".join(f"{size:,}" for size in sizes[:10]) + (", …" if len(sizes) > 10 else "")
    return (f"{before} clusters became {after}: those below {limit} were dissolved (rows: {rows})",)


def _fullest(labels: np.ndarray, weights: np.ndarray, is_open: np.ndarray, bound: int) -> int | None:
    loads = np.bincount(labels, weights=weights, minlength=len(is_open))
    loads[~is_open] = 0
    index = int(loads.argmax())
    return index if loads[index] > bound else None


def _trim(
    embeddings: np.ndarray,
    centroids: np.ndarray,
    labels: np.ndarray,
    limit: tuple[int, int],
    state: tuple[np.ndarray, np.ndarray],
) -> None:
    """Move the rows out of one cluster that lose least by it, until the rest is within the bound."""
    (full, bound), (weights, is_open) = limit, state
    members = np.flatnonzero(labels == full)
    others = np.flatnonzero(is_open)
    costs, targets = np.empty(len(members)), np.empty(len(members), dtype=np.int64)
    done = 0
    for _, rows in gathered_chunks(embeddings, members):
        wide, end = rows.astype(np.float64), done + len(rows)
        to_others = (centroids[others].astype(np.float64) ** 2).sum(axis=1) - 2 * wide @ centroids[others].T
        own = (centroids[full].astype(np.float64) ** 2).sum() - 2 * wide @ centroids[full]
        targets[done:end] = others[to_others.argmin(axis=1)]
        costs[done:end] = to_others.min(axis=1) - own
        done = end
    order = np.argsort(costs, kind="stable")
    excess = int(weights[members].sum()) - bound
    # As many of the cheapest rows as it takes to get rid of the excess.
    n_moved = int(np.searchsorted(np.cumsum(weights[members[order]]), excess)) + 1
    moved = order[:n_moved]
    labels[members[moved]] = targets[moved]
