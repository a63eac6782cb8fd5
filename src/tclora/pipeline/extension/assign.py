"""Which clusters new examples belong to, and which of them belong to none.

In: the embeddings of new examples, a library's centroids, and a sample of each cluster's own rows. Out: a label for
each example, centroids of new clusters, and what was found far. Two things are measured, each against the cluster
that the example is nearest to: its distance to the centroid, and to the nearest row of the sample. It is far where
either is above the threshold, by default the 99th percentile of the cluster's own rows, or where the encoder found
nothing in it. The second is needed because a cluster of several kinds of text is wide: there is room between them.

Far examples open clusters only if there are more of them than chance explains. They are grouped by k-means: the
fewest groups that are as tight as the library's loosest cluster. Then every new example goes to the nearest centroid,
old or new. A group below the minimum is dissolved, and it is said.

Source: the library that grows, future work of arXiv 2508.03999; no published rule for opening clusters is used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tclora.clustering import ClusterModel, assign_clusters, assign_examples, fit_clusters
from tclora.config import ClusterConfig
from tclora.errors import ConfigError
from tclora.pipeline.libraries.samples import distances_to, neighbor_distances
from tclora.shapes import Bool, Float, Int

__all__ = ["AssignSettings", "Assignment", "Known", "assign_new", "parse_threshold"]

_MOST_GROUPS = 32
_SIGMAS = 3.0
"""How far above the expected number of far examples the found one must be; 3 leaves about one false alarm in 700."""
_SLACK = 1.25
"""How much looser than the library's loosest cluster a new one may be: samples of one kind differ by that much."""


@dataclass(frozen=True)
class AssignSettings:
    """`threshold`: a distance to the centroid, or `pN` for the N-th percentile of each cluster's own rows."""

    threshold: str = "p99"
    min_size: int = 20
    new_clusters: int | None = None
    """How many clusters far examples open; None: as many as it takes."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Known:
    """The library's clusters that have an adapter: their rows in the centroids, and samples of their embeddings."""

    model: ClusterModel
    active: tuple[int, ...]
    samples: Mapping[int, Float[np.ndarray, "_ d_embed"]]


@dataclass(frozen=True, eq=False)
class Assignment:
    """`labels`: rows of `centroids`, which are the library's with the new ones after them."""

    labels: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    """To the nearest centroid that the library had, in its units."""
    is_far: Bool[np.ndarray, " n"]
    thresholds: dict[int, float]
    """By cluster, of the distance to its centroid."""
    centroids: Float[np.ndarray, "k d_embed"]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Limits:
    """What is far from each cluster, and how many of the library's own rows are, by the same rule."""

    of_centroid: dict[int, float]
    of_neighbor: dict[int, float]
    n_far: dict[int, int]
    """Of the sample of each cluster."""
    loosest: float
    """The largest median of squared distances to a centroid of the library."""


def assign_new(
    rows: Float[np.ndarray, "n d_embed"],
    tasks: Sequence[str],
    known: Known,
    settings: AssignSettings,
    *,
    n_train: int | None = None,
) -> Assignment:
    """Assign new examples to the library's clusters, or to new ones.

    Args:
        n_train: how many of the rows, from the first, are for training; only they, if far, count towards `min_size`.

    Raises:
        ConfigError: the threshold is neither a distance nor a percentile, or more new clusters are asked for than the
            far examples allow.
    """
    limits = _limits(known, settings.threshold)
    nearest = _nearest(rows, tasks, known)
    distance = distances_to(rows, known.model.centroids, nearest)
    fixed = _of_known_task(tasks, known.model)
    nothing = np.asarray(~rows.any(axis=1))
    is_far = (_far(rows, nearest, distance, known, limits) | nothing) & ~fixed
    notes = [f"{int(nothing.sum())} examples hold nothing that the encoder knows; they count as far"]
    found = Assignment(
        nearest, distance, is_far, limits.of_centroid, known.model.centroids, tuple(notes if nothing.any() else ())
    )
    refusal = _why_not(int(is_far.sum()), _chance(nearest, known, limits), settings)
    if refusal is not None:
        return replace(found, notes=(*found.notes, *([refusal] if is_far.any() else ())))
    may_count = np.arange(len(rows)) < (len(rows) if n_train is None else n_train)
    return _opened(rows, found, known, settings, _Choice(fixed, nothing, may_count, limits.loosest))


def parse_threshold(text: str) -> tuple[str, float]:
    """`("distance", d)` or `("percentile", p)`.

    Raises:
        ConfigError: it is neither.
    """
    kind, number = ("percentile", text[1:]) if text[:1] in ("p", "P") else ("distance", text)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0 and (kind == "distance" or value < 100)):
        raise ConfigError(
            "the threshold is neither a distance nor a percentile",
            where="--threshold",
            found=text,
            expected="a number above 0, such as 0.9, or p1 to p99.9",
        )
    return kind, value


def _limits(known: Known, threshold: str) -> _Limits:
    kind, value = parse_threshold(threshold)
    order = list(known.active)
    together = np.concatenate([known.samples[index] for index in order])
    owners = np.repeat(np.array(order), [len(known.samples[index]) for index in order])
    distances = distances_to(together, known.model.centroids, owners)
    if kind == "distance":
        of_centroid, of_neighbor = dict.fromkeys(order, value), dict.fromkeys(order, math.inf)
        far = distances > value
    else:
        apart = neighbor_distances(together, together, themselves=True)
        of_centroid = {index: _percentile(distances[owners == index], value) for index in order}
        of_neighbor = {index: _percentile(apart[owners == index], value) for index in order}
        far = _above(distances, owners, of_centroid) | _above(apart, owners, of_neighbor)
    spreads = [_spread(distances[owners == index]) for index in order]
    return _Limits(of_centroid, of_neighbor, {index: int(far[owners == index].sum()) for index in order}, max(spreads))


def _spread(distances: Float[np.ndarray, " n"]) -> float:
    # The median, not the mean: a few stragglers say nothing of how tight a group is.
    return float(np.median(distances.astype(np.float64) ** 2))


def _percentile(values: Float[np.ndarray, " n"], percent: float) -> float:
    # The next larger of the observed values: no row of a small cluster is far by interpolation.
    return float(np.quantile(values, percent / 100, method="higher"))


def _above(values: np.ndarray, owners: np.ndarray, limits: Mapping[int, float]) -> np.ndarray:
    return values > np.array([limits[owner] for owner in owners.tolist()])


def _far(rows: np.ndarray, nearest: np.ndarray, distance: np.ndarray, known: Known, limits: _Limits) -> np.ndarray:
    far = _above(distance, nearest, limits.of_centroid)
    if any(math.isfinite(limit) for limit in limits.of_neighbor.values()):
        together = np.concatenate([known.samples[index] for index in known.active])
        far |= _above(neighbor_distances(rows, together), nearest, limits.of_neighbor)
    return far


def _nearest(rows: np.ndarray, tasks: Sequence[str], known: Known) -> Int[np.ndarray, " n"]:
    """Labels among the clusters that have an adapter."""
    active = np.array(known.active)
    model = known.model
    groups = tuple(model.groups[index] for index in known.active) if model.groups else ()
    # Clusters dealt at random are near to nothing; the nearest is as good as another, and can be looked at.
    algorithm = "kmeans" if model.algorithm == "random" else model.algorithm
    centroids = np.ascontiguousarray(model.centroids[active])
    part = replace(model, centroids=centroids, groups=groups, sizes=(), algorithm=algorithm)
    return active[assign_examples(part, rows, tasks=tasks)].astype(np.int64)


def _of_known_task(tasks: Sequence[str], model: ClusterModel) -> Bool[np.ndarray, " n"]:
    """Where clusters are tasks, an example of a known task fits, however far it lies."""
    names = {task for group in model.groups for task in group}
    return np.array([task in names or task.split("/", 1)[0] in names for task in tasks], dtype=bool) & bool(names)


def _chance(nearest: Int[np.ndarray, " n"], known: Known, limits: _Limits) -> tuple[float, float]:
    """How many examples would be far if all were drawn like the library's own: the mean, and the standard deviation.

    Of `n` new rows, a share of about `(far + 2) / (m + 2)` lies above what `far` of `m` sampled rows lie above, the
    measures being two; that the threshold itself was drawn widens the spread by `1 + n / m`.
    """
    mean = variance = 0.0
    for index in known.active:
        n, m = int((nearest == index).sum()), len(known.samples[index])
        share = min(1.0, (limits.n_far[index] + 2) / (m + 2))
        mean, variance = mean + n * share, variance + n * share * (1 - share) * (1 + n / m)
    return mean, math.sqrt(variance)


def _why_not(n_far: int, chance: tuple[float, float], settings: AssignSettings) -> str | None:
    """Why the far examples open no cluster; None where they do."""
    mean, deviation = chance
    if n_far < settings.min_size:
        return (
            f"{n_far} far examples are fewer than the {settings.min_size} that open a cluster: each goes to its nearest"
        )
    if settings.new_clusters is None and n_far <= mean + _SIGMAS * max(deviation, 1.0):
        return f"{n_far} far examples are no more than chance explains ({mean:.0f}); --new-clusters opens one anyway"
    return None


@dataclass(frozen=True, eq=False)
class _Choice:
    """What else decides when clusters are opened."""

    fixed: np.ndarray
    nothing: np.ndarray
    may_count: np.ndarray
    loosest: float


def _opened(rows: np.ndarray, found: Assignment, known: Known, settings: AssignSettings, choice: _Choice) -> Assignment:
    far = np.ascontiguousarray(rows[found.is_far], dtype=np.float32)
    means = _groups(far, choice.loosest, settings)
    k_old = len(known.model.centroids)
    labels, dissolved = _settled(rows, means, found, known, settings.min_size, choice)
    n_new = int(labels.max(initial=k_old - 1)) + 1 - k_old
    fresh = [rows[labels == k_old + index].astype(np.float64).mean(axis=0) for index in range(n_new)]
    centroids = np.concatenate([known.model.centroids, *[mean[None] for mean in fresh]]).astype(np.float32)
    returned = int((found.is_far & (labels < k_old)).sum())
    notes = list(found.notes)
    if dissolved:
        notes.append(f"{dissolved} groups of far examples were smaller than {settings.min_size} and were dissolved")
    if returned:
        notes.append(f"{returned} far examples lie nearest to a cluster that the library had, and went there")
    return replace(found, labels=labels, centroids=centroids, notes=tuple(notes))


def _groups(far: np.ndarray, loosest: float, settings: AssignSettings) -> np.ndarray:
    """Centroids of the far examples: as many as asked for, or the fewest that are tight enough."""
    asked = settings.new_clusters
    most = asked or max(1, min(_MOST_GROUPS, len(far) // settings.min_size))
    means = far.mean(axis=0, keepdims=True)
    for k in range(asked or 1, most + 1):
        if k > 1:
            try:
                config = ClusterConfig(n_clusters=k, sample_fraction=1.0)
                means = fit_clusters(far, config, n_clusters=k, seed=settings.seed).model.centroids
            except ConfigError:
                if asked:
                    raise
                return means  # fewer distinct examples than groups: the groups before are the finest there are
        apart = distances_to(far, means, assign_clusters(far, means))
        if _spread(apart) <= _SLACK * loosest:
            return means
    return means


def _settled(
    rows: np.ndarray, means: np.ndarray, found: Assignment, known: Known, min_size: int, choice: _Choice
) -> tuple[Int[np.ndarray, " n"], int]:
    """The cluster of every example among old and new ones, and how many new groups were dissolved as too small."""
    active, k_old = np.array(known.active), len(known.model.centroids)
    means = means.astype(np.float32)
    old = known.model.centroids[active]
    n_groups = len(means)
    while len(means):
        places = np.concatenate([k_old + np.arange(len(means)), active])
        labels = places[assign_clusters(rows, np.concatenate([means, old]))]
        # What the encoder knows nothing of is near to every centroid and belongs to none of the old ones.
        if choice.nothing.any():
            labels[choice.nothing] = k_old + assign_clusters(rows[choice.nothing], means)
        labels = np.where(choice.fixed, found.labels, labels).astype(np.int64)
        counted = labels[choice.may_count & found.is_far & (labels >= k_old)]
        sizes = np.bincount(counted - k_old, minlength=len(means))
        if (sizes >= min_size).all():
            return labels, n_groups - len(means)
        means = np.delete(means, int(np.argmin(sizes)), axis=0)
    return found.labels, n_groups
