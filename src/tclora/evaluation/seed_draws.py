"""Losses of many contestants over several training seeds, resampled together: seeds first, then rows within a seed.

In: for each seed a matrix of summed nats, one row per example and one column per contestant, and the examples' response
tokens. Out: `Draws`, from which every figure is read: a mean loss, a difference, a share of a gap. Seeds count alike,
whatever their rows. All contestants share the draws, so differences are paired. Refused: no rows, columns that differ
between seeds.

With few seeds the resampling of seeds shows too little of what another seed would do: three values cannot show the
spread of all. The interval is that of the figure for these seeds and others like them, and no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tclora.errors import ShapeError
from tclora.records import Score
from tclora.records.experiment import Contrast
from tclora.shapes import Float, Int

__all__ = ["Draws", "draw_losses", "holm"]

_TAIL = 0.025
# A gap that is not there in more draws than this is no gap to close a share of.
_SURE = 0.005
# Draws of one block: bounds the memory of the counts at 64 MB for a thousand rows.
_BLOCK = 8192


@dataclass(frozen=True)
class Draws:
    """Mean losses by column: `point` as observed, `values` in each bootstrap draw."""

    point: Float[np.ndarray, " columns"]
    values: Float[np.ndarray, "n_bootstrap columns"]
    n_rows: int
    n_seeds: int

    def mean(self, column: int) -> Score:
        """A contestant's loss with its 95 % percentile interval."""
        return self._score(float(self.point[column]), self.values[:, column])

    def contrast(self, first: int, second: int) -> Contrast:
        """The first's loss less the second's, on the same rows, and a two-sided bootstrap p of no difference.

        Source: Efron and Tibshirani 1993, chapters 13 and 15; the p value inverts the percentile interval.
        """
        drawn = self.values[:, first] - self.values[:, second]
        low, high = np.quantile(drawn, (_TAIL, 1 - _TAIL))
        n = drawn.size
        p = 2 * min(int((drawn <= 0).sum()) + 1, int((drawn >= 0).sum()) + 1) / (n + 1)
        value = float(self.point[first] - self.point[second])
        return Contrast(value, float(low), float(high), min(1.0, p), None, self.n_rows, self.n_seeds)

    def gap_closed(self, column: int, start: int, end: int) -> Score | None:
        """The share of the way from `start` to `end` that a contestant goes; None where there may be no gap.

        There is one where `end` is better than `start` in all but one in two hundred draws; a ratio to less than that
        can be anything.
        """
        gap, won = (self.values[:, start] - self.values[:, other] for other in (end, column))
        if np.quantile(gap, _SURE) <= 0:
            return None
        value = (self.point[start] - self.point[column]) / (self.point[start] - self.point[end])
        # The few draws without a gap stand at the ends, so that the interval is not narrower for them.
        drawn = np.where(gap > 0, won / np.where(gap > 0, gap, 1), np.where(won > 0, np.inf, -np.inf))
        low, high = np.quantile(drawn, (_TAIL, 1 - _TAIL), method="nearest")
        return Score(float(value), float(low), float(high), self.n_rows)

    def _score(self, value: float, drawn: Float[np.ndarray, " n_bootstrap"]) -> Score:
        low, high = np.quantile(drawn, (_TAIL, 1 - _TAIL))
        return Score(value, float(low), float(high), self.n_rows)


def draw_losses(
    nats: Sequence[Float[np.ndarray, "_ columns"]],
    n_tokens: Sequence[Int[np.ndarray, " _"]],
    *,
    n_bootstrap: int,
    seed: int,
) -> Draws:
    """Resample seeds, then the rows of each drawn seed; equal arguments give equal draws.

    Args:
        nats: for each seed, summed nats of its rows (0 or 1 for shares), one column per contestant.
        n_tokens: for each seed, the response tokens of its rows (ones for shares).

    Raises:
        ShapeError: a seed has no rows, an example no tokens, or seeds have other columns.

    Source: Davison and Hinkley 1997, section 3.8 (hierarchical data, both levels with replacement).
    """
    _check(nats, n_tokens)
    generator = np.random.default_rng(seed)
    n_seeds = len(nats)
    point = np.mean([rows.sum(axis=0) / tokens.sum() for rows, tokens in zip(nats, n_tokens, strict=True)], axis=0)
    total = np.zeros((n_bootstrap, nats[0].shape[1]))
    for _ in range(n_seeds):
        drawn = generator.integers(0, n_seeds, size=n_bootstrap)
        for index, (rows, tokens) in enumerate(zip(nats, n_tokens, strict=True)):
            places = np.flatnonzero(drawn == index)
            for start in range(0, len(places), _BLOCK):
                block = places[start : start + _BLOCK]
                counts = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(block))
                total[block] += (counts @ rows) / (counts @ tokens)[:, None]
    return Draws(point, total / n_seeds, sum(map(len, nats)), n_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that may be compared with one level, however many there are.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _check(nats: Sequence[Float[np.ndarray, "_ columns"]], n_tokens: Sequence[Int[np.ndarray, " _"]]) -> None:
    fewest = min((int(tokens.min(initial=0 if not tokens.size else tokens[0])) for tokens in n_tokens), default=0)
    sizes = [(rows.shape, tokens.shape) for rows, tokens in zip(nats, n_tokens, strict=True)]
    if fewest < 1 or any(len(rows) != len(tokens) for rows, tokens in zip(nats, n_tokens, strict=True)):
        raise ShapeError("losses need rows with response tokens, as many as there are tokens", found=sizes)
    if len({rows.shape[1] for rows in nats}) > 1:
        raise ShapeError("seeds have other contestants", found=sizes, expected="the same columns for each seed")
