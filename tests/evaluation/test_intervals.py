"""Intervals against closed forms, known values and their own coverage."""

import math

import numpy as np
import pytest

from tclora.errors import ShapeError
from tclora.evaluation import accuracy, mean_loss, paired_difference
from tclora.evaluation import statistics as statistics_module


@pytest.mark.parametrize(("n_right", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (1, 1), (500, 1000)])
def test_wilson_bounds_solve_their_defining_equation(n_right, n):
    # The bounds are the p with |share - p| = z * sqrt(p (1 - p) / n).
    score = accuracy(n_right, n)
    for bound in (score.low, score.high):
        left, right = abs(score.value - bound), 1.959963984540054 * math.sqrt(bound * (1 - bound) / n)
        assert left == pytest.approx(right, abs=1e-12)  # both sides are of order 1, in float64


def test_wilson_agrees_with_scipy():
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for n_right, n in [(81, 263), (15, 148), (0, 20), (29, 29)]:
        score, interval = accuracy(n_right, n), binomtest(n_right, n).proportion_ci(0.95, method="wilson")
        assert (score.low, score.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_wilson_known_value():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, to the four places printed there.
    score = accuracy(81, 263)
    assert (round(score.low, 4), round(score.high, 4), score.n) == (0.2553, 0.3662, 263)


@pytest.mark.parametrize(("n_right", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_a_share_of_nothing_is_refused(n_right, n):
    with pytest.raises(ShapeError, match="a share needs items"):
        accuracy(n_right, n)


def test_mean_loss_is_weighted_by_tokens():
    score = mean_loss(np.array([10.0, 1.0]), np.array([10, 2]))
    assert score.value == pytest.approx(11 / 12)


def test_mean_loss_of_a_constant_has_no_width():
    n_tokens = np.arange(1, 40)
    score = mean_loss(2.5 * n_tokens, n_tokens)
    assert (score.low, score.high) == pytest.approx((2.5, 2.5), rel=1e-12)


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(3)
    nats = rng.normal(5, 2, size=2000)
    score = mean_loss(nats, np.ones(2000, dtype=np.int64), n_bootstrap=4000)
    half = 1.96 * nats.std() / math.sqrt(2000)
    # A percentile from 4000 draws has a standard error of about 2.7 % of a sigma, so 4 % of this half width at 2 sigma.
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.08)


def test_bootstrap_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(400):
        n_tokens = rng.integers(1, 20, size=80)
        # The response tokens of an example share a difficulty, so the truth is 2 and the tokens are not independent.
        nats = n_tokens * (2 + rng.normal(0, 0.7, size=80))
        score = mean_loss(nats, n_tokens, n_bootstrap=400, seed=trial)
        hits += score.low <= 2 <= score.high
    # 400 trials have a standard error of 1.1 %; the percentile interval itself falls a little short at n = 80.
    assert 0.90 <= hits / 400 <= 0.98


def test_bootstrap_is_the_same_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    nats, n_tokens = rng.gamma(2, 3, size=64), rng.integers(1, 9, size=64)
    whole = mean_loss(nats, n_tokens, n_bootstrap=200, seed=5)
    monkeypatch.setattr(statistics_module, "_BLOCK", 64 * 10)
    assert mean_loss(nats, n_tokens, n_bootstrap=200, seed=5) == whole


def test_bootstrap_leaves_the_global_generator_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the very thing that must not change)
    mean_loss(np.array([1.0, 2.0]), np.array([1, 1]))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_pairing_sees_what_separate_intervals_hide():
    rng = np.random.default_rng(1)
    n_tokens = rng.integers(1, 30, size=300)
    nats = n_tokens * rng.gamma(2, 1, size=300)
    better = nats - 0.05 * n_tokens * rng.uniform(0.5, 1.5, size=300)
    a, b = mean_loss(better, n_tokens), mean_loss(nats, n_tokens)
    assert a.low < b.high and b.low < a.high
    assert paired_difference(better, nats, n_tokens).high < 0


def test_paired_difference_turns_its_sign_with_its_arguments():
    rng = np.random.default_rng(2)
    n_tokens, a, b = rng.integers(1, 9, size=50), rng.gamma(2, 1, size=50), rng.gamma(2, 1, size=50)
    there, back = paired_difference(a, b, n_tokens), paired_difference(b, a, n_tokens)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)


@pytest.mark.parametrize(
    ("nats", "n_tokens", "n_bootstrap"), [([], [], 10), ([1.0, 2.0], [1, 0], 10), ([1.0, 2.0], [1, 1], 0)]
)
def test_a_mean_of_nothing_is_refused(nats, n_tokens, n_bootstrap):
    with pytest.raises(ShapeError, match="a mean loss needs examples with response tokens"):
        mean_loss(np.array(nats, dtype=float), np.array(n_tokens, dtype=int), n_bootstrap=n_bootstrap)
