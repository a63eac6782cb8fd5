"""Differences between adapters on the same items, and how sure they are.

In: the values of a metric, items by adapters. Out: bootstrap means that all adapters share, so that every difference
is paired; exact McNemar p values for metrics of 0 and 1; Holm's correction is `tclora.evaluation.seed_draws.holm`.
Refused: no items.
"""

import numpy as np

from tclora.errors import ShapeError
from tclora.evaluation.statistics import accuracy
from tclora.records import Score
from tclora.shapes import Bool, Float, Int

__all__ = ["bootstrap_p", "draw_means", "interval", "is_binary", "mcnemar_p", "mean_score"]

_TAILS = (0.025, 0.975)
# Draws times items held at once: 32 MB of counts.
_BLOCK = 1 << 22


def draw_means(
    values: Float[np.ndarray, "n columns"], *, n_bootstrap: int, seed: int, groups: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n_bootstrap columns"]:
    """Column means over resampled items, the same resamples for every column.

    Args:
        groups: with it, each group is resampled alone and the means of the groups are averaged.

    Raises:
        ShapeError: there are no items, or no draws.

    Source: Efron and Tibshirani 1993, chapters 8 and 13.
    """
    if not len(values) or n_bootstrap < 1:
        raise ShapeError("a bootstrap needs items and draws", found=f"{len(values)} items, {n_bootstrap} draws")
    generator = np.random.default_rng(seed)
    if groups is None:
        return _resampled(values, n_bootstrap, generator)
    parts = [values[groups == group] for group in np.unique(groups)]
    return np.mean([_resampled(part, n_bootstrap, generator) for part in parts], axis=0)


def interval(value: float, drawn: Float[np.ndarray, " n_bootstrap"], n: int) -> Score:
    """A figure with the 95 % percentile interval of its draws."""
    low, high = np.quantile(drawn, _TAILS)
    return Score(value, float(low), float(high), n)


def mean_score(values: Float[np.ndarray, " n"], drawn: Float[np.ndarray, " n_bootstrap"], *, binary: bool) -> Score:
    """A mean with its interval: Wilson's for values of 0 and 1, else the bootstrap's."""
    if binary:
        return accuracy(int(values.sum()), len(values))
    return interval(float(values.mean()), drawn, len(values))


def is_binary(values: Float[np.ndarray, "n columns"]) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def mcnemar_p(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    """The exact two-sided p of McNemar's test: of the items that one alone got right, a half each were expected.

    Source: McNemar 1947, Psychometrika 12, 153-157; the binomial form of Fagerland, Lydersen and Laake 2013.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, fewest, term, total = only_first + only_second, min(only_first, only_second), 1, 0
    for k in range(fewest + 1):
        total += term
        term = term * (n - k) // (k + 1)
    # Whole numbers throughout, so nothing is lost however many items there are.
    return min(1.0, 2 * total / (1 << n))


def bootstrap_p(drawn: Float[np.ndarray, " n_bootstrap"]) -> float:
    """A two-sided p of no difference, from draws of the difference: never below 2 / (draws + 1).

    Source: Efron and Tibshirani 1993, chapter 15; it inverts the percentile interval.
    """
    fewest = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (fewest + 1) / (len(drawn) + 1))


def _resampled(
    values: Float[np.ndarray, "n columns"], n_bootstrap: int, generator: np.random.Generator
) -> Float[np.ndarray, "n_bootstrap columns"]:
    n, blocks = len(values), []
    step = max(1, _BLOCK // n)
    for start in range(0, n_bootstrap, step):
        rows = min(step, n_bootstrap - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        # How often each item was drawn; one product then gives the means of all columns.
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        blocks.append(counts @ values / n)
    # The average of identical values is that value; the product may be an ulp off.
    constant = values.min(axis=0) == values.max(axis=0)
    return np.where(constant, values[0], np.concatenate(blocks))
