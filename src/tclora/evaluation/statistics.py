"""From per-item results to figures with 95 % intervals.

In: counts, or summed nats and response tokens per example. Out: `Score`. Intervals are over items: they say how far
a figure would move with other items of the same kind, not with another training seed. Refused: no items, and examples
without a response token.
"""

import math

import numpy as np

from tclora.errors import ShapeError
from tclora.records import Score
from tclora.shapes import Float, Int

__all__ = ["accuracy", "mean_loss", "paired_difference"]

# The 97.5 % point of the standard normal distribution.
_Z = 1.959963984540054
_TAIL = 0.025
# Entries of one block of resampled indices: bounds memory at 32 MB whatever the number of examples.
_BLOCK = 1 << 22


def accuracy(n_right: int, n: int) -> Score:
    """Give a share of right answers its Wilson score interval.

    Returns:
        value, low and high between 0 and 1.

    Raises:
        ShapeError: `n` is below 1, or `n_right` is outside 0 to `n`.

    Source: Wilson 1927, JASA 22, 209-212; Brown, Cai and DasGupta 2001, for its coverage near 0 and 1.
    """
    if n < 1 or not 0 <= n_right <= n:
        raise ShapeError("a share needs items", found=f"{n_right} right of {n}", expected="0 <= n_right <= n, n >= 1")
    share, z2 = n_right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At no or all right answers the bound is exactly 0 or 1; rounding would leave it an ulp away.
    low = 0.0 if n_right == 0 else middle - half
    high = 1.0 if n_right == n else middle + half
    return Score(share, low, high, n)


def mean_loss(
    nats: Float[np.ndarray, " n"], n_tokens: Int[np.ndarray, " n"], *, n_bootstrap: int = 1000, seed: int = 0
) -> Score:
    """Average a loss over response tokens, with a bootstrap percentile interval over examples.

    `nats` is summed over the response tokens of each example, so long answers weigh more, as in training. Examples
    and not tokens are resampled, because the tokens of one answer are not independent. Equal seeds draw equal
    resamples, so contestants on the same examples share them.

    Returns:
        Nats per response token. With one example the interval is that example's loss.

    Raises:
        ShapeError: there are no examples, or one has no response token.

    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    if nats.size == 0 or n_tokens.min() < 1 or n_bootstrap < 1:
        raise ShapeError(
            "a mean loss needs examples with response tokens",
            found=f"{nats.size} examples, fewest response tokens {n_tokens.min(initial=0)}, {n_bootstrap} resamples",
            expected="at least 1 of each",
        )
    draws = _resampled(nats, n_tokens, n_bootstrap, np.random.default_rng(seed))
    low, high = np.quantile(draws, (_TAIL, 1 - _TAIL))
    return Score(float(nats.sum() / n_tokens.sum()), float(low), float(high), nats.size)


def paired_difference(
    nats: Float[np.ndarray, " n"],
    other_nats: Float[np.ndarray, " n"],
    n_tokens: Int[np.ndarray, " n"],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Score:
    """Compare two contestants on the same examples: the first's mean loss less the second's.

    Both are resampled together, so what makes an example hard for both cancels, and differences that separate
    intervals would hide can be seen.

    Returns:
        Nats per response token; negative where the first contestant is better.

    Raises:
        ShapeError: as `mean_loss`.
    """
    return mean_loss(nats - other_nats, n_tokens, n_bootstrap=n_bootstrap, seed=seed)


def _resampled(
    nats: Float[np.ndarray, " n"], n_tokens: Int[np.ndarray, " n"], n_bootstrap: int, rng: np.random.Generator
) -> Float[np.ndarray, " n_bootstrap"]:
    n = nats.size
    rows = max(1, _BLOCK // n)
    blocks = []
    for start in range(0, n_bootstrap, rows):
        drawn = rng.integers(0, n, size=(min(rows, n_bootstrap - start), n))
        blocks.append(nats[drawn].sum(axis=1) / n_tokens[drawn].sum(axis=1))
    return np.concatenate(blocks)
