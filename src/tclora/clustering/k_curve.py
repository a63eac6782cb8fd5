"""Everything that is measured for one number of clusters: stability, separation, gap and balance.

In: a `SearchSpace`, and what each row weighs in tokens. Out: an `NClustersPoint` for each k. The resamples, the rows
held out and the reference data are the same for every k, so that two points differ by k and not by luck. Refused:
nothing; what is not defined for a k is None.
"""

import math
from dataclasses import dataclass

import numpy as np

from tclora.clustering.quality import (
    balance,
    calinski_harabasz,
    davies_bouldin,
    pairwise_distances,
    silhouette_scores,
    within_dispersion,
)
from tclora.clustering.search_space import SearchSpace, boxed_rows, normal_rows
from tclora.clustering.short_runs import nearest, short_runs
from tclora.clustering.stability import stability_of
from tclora.records import NClustersPoint
from tclora.shapes import Float, Int

__all__ = ["Floor", "Trials", "make_trials", "measure"]

N_NORMAL, N_BOXED = 3, 5
# Rows that silhouettes are taken over, and that are held out of the resamples: their distances take 8 n² bytes.
N_SILHOUETTE, N_HELD_OUT = 1500, 1500
_HELD_OUT_SHARE = 0.3
# A cluster of less than this share of an equal one is a handful of outliers, whatever the number of rows.
_SHARE_OF_EQUAL = 0.05


@dataclass(frozen=True)
class Floor:
    """What the smallest cluster must have, of `n_rows` rows in all."""

    n_rows: int
    min_rows: int
    min_tokens: int

    def rows(self, n_clusters: int) -> int:
        """Rows that each of so many clusters must have."""
        return max(self.min_rows, math.ceil(_SHARE_OF_EQUAL * self.n_rows / n_clusters))


@dataclass(frozen=True, eq=False)
class Trials:
    """What is common to all k."""

    space: SearchSpace
    n_tokens: Int[np.ndarray, " s"] | None
    held_out: Int[np.ndarray, " h"]
    resamples: tuple[Int[np.ndarray, " p"], ...]
    shown: Int[np.ndarray, " v"]
    """Rows that silhouettes are taken over."""
    distances: Float[np.ndarray, "v v"]
    normal: tuple[tuple[Float[np.ndarray, "s q"], Float[np.ndarray, "v v"]], ...]
    boxed: tuple[Float[np.ndarray, "s q"], ...]
    seed: int


def make_trials(space: SearchSpace, n_tokens: Int[np.ndarray, " s"] | None, *, n_resamples: int, seed: int) -> Trials:
    """Hold rows out, draw bootstrap resamples of the others, and make the reference data."""
    rng = np.random.default_rng([seed, 1])
    n = len(space.rows)
    order = rng.permutation(n)
    n_held_out = min(N_HELD_OUT, math.ceil(_HELD_OUT_SHARE * n))
    held_out, pool = order[:n_held_out], order[n_held_out:]
    resamples = tuple(rng.choice(pool, len(pool), replace=True) for _ in range(n_resamples))
    shown = np.sort(rng.choice(n, min(n, N_SILHOUETTE), replace=False))
    normal = tuple(normal_rows(space, rng) for _ in range(N_NORMAL))
    return Trials(
        space=space,
        n_tokens=n_tokens,
        held_out=held_out,
        resamples=resamples,
        shown=shown,
        distances=pairwise_distances(space.rows[shown].astype(np.float64)),
        normal=tuple((rows, pairwise_distances(rows[shown].astype(np.float64))) for rows in normal),
        boxed=tuple(boxed_rows(space, rng) for _ in range(N_BOXED)),
        seed=seed,
    )


def measure(trials: Trials, k: int, floor: Floor) -> NClustersPoint:
    """The point of one k; for one cluster only what is defined for it."""
    rows = trials.space.rows
    labels = _labels(rows, k, trials, 0)
    wide = rows.astype(np.float64)
    within = within_dispersion(wide, labels)
    gap, gap_se = _gap(trials, k, within)
    sizes = _sizes(trials, labels, k, floor)
    point = NClustersPoint(
        n_clusters=k,
        within=within / len(rows),
        **sizes,  # type: ignore[arg-type]
        gap=gap,
        gap_se=gap_se,
    )
    if k == 1:
        return point
    return NClustersPoint(**{**point.__dict__, **_stability(trials, k), **_separation(trials, wide, labels)})


def _stability(trials: Trials, k: int) -> dict[str, float]:
    rows = trials.space.rows
    held_out = rows[trials.held_out]
    labelings = [
        nearest(held_out, short_runs(rows[places], k, seed=_seed(trials, k, 1 + index)))
        for index, places in enumerate(trials.resamples)
    ]
    found = stability_of(labelings)
    return {"stability": found.value, "stability_se": found.se}


def _separation(
    trials: Trials, wide: Float[np.ndarray, "s q"], labels: Int[np.ndarray, " s"]
) -> dict[str, float | None]:
    k = int(labels.max()) + 1
    scores = silhouette_scores(trials.distances, labels[trials.shown])
    null = np.concatenate(
        [
            silhouette_scores(distances, _labels(rows, k, trials, 1000 + index)[trials.shown])
            for index, (rows, distances) in enumerate(trials.normal)
        ]
    )
    return {
        "silhouette": float(scores.mean()),
        "silhouette_null": float(null.mean()),
        "silhouette_se": math.hypot(scores.std() / math.sqrt(len(scores)), null.std() / math.sqrt(len(null))),
        "calinski_harabasz": _finite(calinski_harabasz(wide, labels)),
        "davies_bouldin": davies_bouldin(wide, labels),
    }


def _gap(trials: Trials, k: int, within: float) -> tuple[float | None, float | None]:
    """How far the logarithm of the dispersion is below that of rows without clusters, and its standard error."""
    if within <= 1e-12 * len(trials.space.rows) * float(trials.space.variances.sum()):
        return None, None
    logs = [
        math.log(within_dispersion(rows.astype(np.float64), _labels(rows, k, trials, 2000 + index)))
        for index, rows in enumerate(trials.boxed)
    ]
    return float(np.mean(logs)) - math.log(within), float(np.std(logs)) * math.sqrt(1 + 1 / len(logs))


def _sizes(trials: Trials, labels: Int[np.ndarray, " s"], k: int, floor: Floor) -> dict[str, object]:
    """Sizes in rows and tokens, as many as the sample stands for."""
    scale = floor.n_rows / len(labels)
    rows = np.bincount(labels, minlength=k)
    smallest = round(int(rows.min()) * scale)
    tokens = None if trials.n_tokens is None else np.bincount(labels, weights=trials.n_tokens, minlength=k)
    fewest = None if tokens is None else round(float(tokens.min()) * scale)
    return {
        "smallest_rows": smallest,
        "smallest_tokens": fewest,
        "balance_rows": balance(rows),
        "balance_tokens": None if tokens is None else balance(tokens),
        "large_enough": smallest >= floor.rows(k) and (fewest is None or fewest >= floor.min_tokens),
    }


def _labels(rows: Float[np.ndarray, "s q"], k: int, trials: Trials, index: int) -> Int[np.ndarray, " s"]:
    """A clustering of all rows, its clusters numbered without gaps."""
    labels = nearest(rows, short_runs(rows, k, seed=_seed(trials, k, index)))
    return np.unique(labels, return_inverse=True)[1]


def _seed(trials: Trials, k: int, index: int) -> int:
    return int(np.random.SeedSequence([trials.seed, k, index]).generate_state(1)[0])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
