"""Draws over seeds and rows: known spreads, paired differences, gaps, and Holm's correction worked by hand."""

import numpy as np
import pytest

from tclora.errors import ShapeError
from tclora.evaluation import mean_loss
from tclora.evaluation.seed_draws import draw_losses, holm


def seeds_of(effects, *, n=200, spread=1.0, columns=2, seed=0):
    """For each seed rows whose mean is the seed's effect; the columns differ by 0.1 a column, without noise."""
    generator = np.random.default_rng(seed)
    rows = [effect + spread * generator.standard_normal((n, 1)) for effect in effects]
    return [row + 0.1 * np.arange(columns) for row in rows], [np.ones(n, dtype=np.int64) for _ in effects]


def test_the_point_is_the_mean_over_seeds_of_each_seeds_token_mean():
    nats = [np.array([[2.0], [4.0]]), np.array([[9.0]])]
    n_tokens = [np.array([1, 3]), np.array([3])]
    drawn = draw_losses(nats, n_tokens, n_bootstrap=10, seed=0)
    # (2 + 4) / (1 + 3) and 9 / 3, seeds alike.
    assert drawn.mean(0).value == pytest.approx((1.5 + 3.0) / 2) and drawn.n_rows == 3 and drawn.n_seeds == 2


def test_one_seed_is_the_plain_bootstrap():
    generator = np.random.default_rng(1)
    n_tokens = generator.integers(1, 9, size=150)
    nats = generator.random(150) * n_tokens
    ours = draw_losses([nats[:, None]], [n_tokens], n_bootstrap=8000, seed=0).mean(0)
    plain = mean_loss(nats, n_tokens, n_bootstrap=8000, seed=1)
    # Quantiles of 8,000 draws scatter by about 2 % of the standard error, which is about a quarter of the width.
    assert ours.value == pytest.approx(plain.value)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=0.1 * (plain.high - plain.low))


def test_seeds_that_differ_widen_the_interval_of_a_loss_and_not_of_a_paired_difference():
    apart = draw_losses(*seeds_of([0.0, 5.0, 10.0]), n_bootstrap=2000, seed=0)
    alike = draw_losses(*seeds_of([5.0, 5.0, 5.0]), n_bootstrap=2000, seed=0)
    width = [drawn.mean(0).high - drawn.mean(0).low for drawn in (apart, alike)]
    assert width[0] > 10 * width[1]
    contrast = apart.contrast(1, 0)
    # The columns differ by exactly 0.1 on every row; only rounding is left.
    assert (contrast.low, contrast.high) == pytest.approx((0.1, 0.1), abs=1e-9)
    assert contrast.p == pytest.approx(2 / 2001) and contrast.n_seeds == 3 and contrast.n_rows == 600


def test_the_spread_over_seeds_is_that_of_their_mean():
    """Rows without noise: the draws are means of three values drawn from three."""
    drawn = draw_losses(*seeds_of([0.0, 3.0, 9.0], spread=0.0), n_bootstrap=40_000, seed=3)
    expected = np.std([0.0, 3.0, 9.0]) / np.sqrt(3)
    # The standard deviation of 40,000 draws is known to about 0.4 %.
    assert drawn.values[:, 0].std() == pytest.approx(expected, rel=0.02)


def test_equal_contestants_are_told_equal():
    nats, n_tokens = seeds_of([1.0, 2.0], columns=1)
    drawn = draw_losses([np.repeat(rows, 2, axis=1) for rows in nats], n_tokens, n_bootstrap=100, seed=0)
    contrast = drawn.contrast(0, 1)
    assert (contrast.value, contrast.low, contrast.high, contrast.p) == (0, 0, 0, 1)


def test_p_of_no_difference_is_uniform():
    """Two columns of independent noise: about one in twenty differences has p below 0.05."""
    generator = np.random.default_rng(5)
    ones = np.ones(60, dtype=np.int64)
    p = [
        draw_losses([generator.standard_normal((60, 2))], [ones], n_bootstrap=300, seed=s).contrast(0, 1).p
        for s in range(300)
    ]
    # 300 trials: 15 expected with a standard deviation of 4; the percentile bootstrap of 60 rows is a little liberal.
    assert 4 <= sum(value < 0.05 for value in p) <= 32


def test_a_share_of_a_gap_is_exact_where_differences_are():
    nats, n_tokens = seeds_of([0.0, 4.0], columns=5)
    drawn = draw_losses(nats, n_tokens, n_bootstrap=200, seed=0)
    share = drawn.gap_closed(3, start=4, end=0)
    assert share is not None
    assert (share.value, share.low, share.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-9)
    assert drawn.gap_closed(4, 4, 0).value == 0 and drawn.gap_closed(0, 4, 0).value == 1


def test_a_gap_that_may_not_be_there_has_no_share():
    generator = np.random.default_rng(0)
    drawn = draw_losses([generator.standard_normal((50, 3))], [np.ones(50, dtype=np.int64)], n_bootstrap=500, seed=0)
    assert drawn.gap_closed(2, 0, 1) is None


def test_equal_arguments_give_equal_draws():
    first, second = (draw_losses(*seeds_of([0.0, 1.0]), n_bootstrap=50, seed=7) for _ in range(2))
    assert np.array_equal(first.values, second.values)


def test_holm_against_its_definition():
    # Worked by hand: sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, made to rise.
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("nats", "n_tokens", "message"),
    [
        ([np.zeros((2, 1))], [np.array([1, 0])], "response tokens"),
        ([np.zeros((0, 1))], [np.zeros(0, dtype=np.int64)], "response tokens"),
        ([np.zeros((2, 1)), np.zeros((2, 2))], [np.ones(2, dtype=np.int64)] * 2, "other contestants"),
    ],
)
def test_what_has_no_mean_is_refused(nats, n_tokens, message):
    with pytest.raises(ShapeError, match=message):
        draw_losses(nats, n_tokens, n_bootstrap=10, seed=0)
