"""Intervals and tests of many adapters against scipy, hand formulas, and their own error rates."""

import dataclasses
import math

import numpy as np
import pytest
from many_tasks import SmallTask, choice_task

from tclora.errors import ShapeError
from tclora.evaluation import accuracy
from tclora.evaluation.many import MACRO, TaskValues, bootstrap_p, draw_means, figures_of, mcnemar_p


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (5, 0), (3, 12), (10, 10), (200, 260)])
def test_mcnemar_is_the_binomial_test_of_scipy(only_first, only_second):
    binomtest = pytest.importorskip("scipy.stats").binomtest
    first = np.array([True] * only_first + [False] * only_second + [True, False] * 7)
    second = np.array([False] * only_first + [True] * only_second + [True, False] * 7)
    n = only_first + only_second
    expected = binomtest(only_first, n, 0.5).pvalue if n else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p(second, first) == mcnemar_p(first, second)


def test_mcnemar_by_hand():
    # Five discordant, all for the first: 2 / 2^5.
    assert mcnemar_p(np.array([True] * 5), np.array([False] * 5)) == 0.0625


def test_mcnemar_of_many_items_does_not_overflow():
    first = np.arange(20_000) < 12_000
    assert 0 <= mcnemar_p(first, ~first) < 1e-100


def test_draws_are_means_of_resamples():
    values = np.random.default_rng(0).normal(size=(400, 2))
    drawn = draw_means(values, n_bootstrap=4000, seed=1)
    expected = values.std(axis=0) / math.sqrt(400)
    # The standard error of a standard deviation of 4000 draws is 1.1 %; four of them.
    assert drawn.std(axis=0) == pytest.approx(expected, rel=0.045)
    assert drawn.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=4 * expected.max() / math.sqrt(4000))


def test_columns_share_their_resamples():
    column = np.random.default_rng(0).normal(size=(50, 1))
    drawn = draw_means(np.concatenate([column, column + 3, -column], axis=1), n_bootstrap=200, seed=0)
    # Sums of 50 numbers of order 1 to 4 in float64.
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 3, atol=1e-12)
    np.testing.assert_allclose(drawn[:, 2], -drawn[:, 0], atol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 2))
    whole = draw_means(values, n_bootstrap=100, seed=3)
    monkeypatch.setattr("tclora.evaluation.many.comparing._BLOCK", 7 * 30)
    np.testing.assert_allclose(draw_means(values, n_bootstrap=100, seed=3), whole, rtol=1e-12)


def test_parts_count_alike_and_are_resampled_apart():
    values = np.array([[0.0]] * 90 + [[1.0]] * 10)
    groups = np.array([0] * 90 + [1] * 10)
    # Within a part nothing varies, so the mean of the parts does not either.
    assert set(draw_means(values, n_bootstrap=50, seed=0, groups=groups)[:, 0]) == {0.5}


def test_nothing_cannot_be_resampled():
    with pytest.raises(ShapeError, match="items and draws"):
        draw_means(np.zeros((0, 1)), n_bootstrap=10, seed=0)


def test_the_bootstraps_p_by_hand():
    assert bootstrap_p(np.array([1.0] * 99)) == 2 / 100
    assert bootstrap_p(np.array([0.0] * 99)) == 1.0
    assert bootstrap_p(np.array([1.0] * 90 + [-1.0] * 9)) == pytest.approx(2 * 10 / 100)


def test_the_bootstraps_p_is_about_uniform_where_nothing_differs():
    rng, found = np.random.default_rng(0), []
    for seed in range(200):
        drawn = draw_means(rng.normal(size=(60, 1)), n_bootstrap=400, seed=seed)[:, 0]
        found.append(bootstrap_p(drawn))
    # 5 % of 200 is 10, with a standard deviation of 3.1; the percentile bootstrap is known to reject a little more.
    assert 3 <= sum(p <= 0.05 for p in found) <= 24


def values_of(name, acc, nats, **options):
    task = choice_task(name, n=len(acc))
    return TaskValues(dataclasses.replace(task, **options), task.built, {"acc": acc, "nats": nats})


@pytest.fixture
def two_tasks():
    rng = np.random.default_rng(4)
    acc = (rng.random((40, 3)) < [0.2, 0.5, 0.9]).astype(float)
    nats = rng.normal([3.0, 2.9, 2.0], 0.5, size=(40, 3))
    return [values_of("one", acc, nats), values_of("two", acc[::-1].copy(), nats)]


NAMES = ("base", "a", "b")
PAIRS = (("a", "base"), ("b", "base"), ("b", "a"))


def made(two_tasks, **options):
    return figures_of(two_tasks, NAMES, PAIRS, **({"n_bootstrap": 500, "seed": 0} | options))


def test_shares_carry_wilsons_interval_and_others_the_bootstraps(two_tasks):
    found = {(one.adapter, one.task, one.metric): one for one in made(two_tasks).figures}
    right = int(two_tasks[0].values["acc"][:, 1].sum())
    assert found["a", "one", "acc"].score == accuracy(right, 40)
    nats = found["a", "one", "nats"]
    assert nats.interval == "bootstrap" and nats.score.low < nats.score.value < nats.score.high
    assert nats.score.value == pytest.approx(two_tasks[0].values["nats"][:, 1].mean(), rel=1e-12)


def test_parts_have_figures_of_their_own(two_tasks):
    one = next(one for one in made(two_tasks).figures if (one.adapter, one.metric) == ("b", "acc"))
    acc = two_tasks[0].values["acc"][:, 2]
    assert one.by_group == {"part-0": accuracy(int(acc[::2].sum()), 20), "part-1": accuracy(int(acc[1::2].sum()), 20)}
    assert one.group_mean.value == pytest.approx((acc[::2].mean() + acc[1::2].mean()) / 2)


def test_comparisons_are_paired_and_corrected(two_tasks):
    from statistics import fmean

    found = [one for one in made(two_tasks).comparisons if (one.task, one.metric) == ("one", "acc")]
    acc = two_tasks[0].values["acc"]
    assert [(one.first, one.second) for one in found] == list(PAIRS)
    for one in found:
        a, b = acc[:, NAMES.index(one.first)], acc[:, NAMES.index(one.second)]
        assert one.difference.value == pytest.approx(fmean(a - b))
        assert (one.n_first, one.n_second) == (int((a > b).sum()), int((b > a).sum()))
        assert (one.test, one.p) == ("mcnemar", mcnemar_p(a == 1, b == 1))
    ordered = sorted(found, key=lambda one: one.p)
    running = [min(1.0, (3 - i) * one.p) for i, one in enumerate(ordered)]
    assert [one.p_holm for one in ordered] == pytest.approx([max(running[: i + 1]) for i in range(3)])


def test_a_difference_of_equals_is_nothing():
    acc = np.tile(np.array([[1.0], [0.0], [0.0]]), 3)
    found = figures_of([values_of("t", acc, acc + 0.5)], NAMES, PAIRS, n_bootstrap=100, seed=0)
    assert {one.p_holm for one in found.comparisons} == {1.0}
    assert {(one.difference.low, one.difference.high) for one in found.comparisons} == {(0.0, 0.0)}


def test_the_mean_over_tasks_counts_tasks_alike(two_tasks):
    found = made(two_tasks)
    accs = [task.values["acc"][:, 2].mean() for task in two_tasks]
    assert found.macro["b"].value == pytest.approx(sum(accs) / 2)
    assert (found.macro_tasks, found.macro_chance) == (("one", "two"), 0.5)
    assert [one.metric for one in found.comparisons if one.task == MACRO] == ["main"] * 3


def test_one_task_or_losses_have_no_mean_over_tasks(two_tasks):
    assert figures_of(two_tasks[:1], NAMES, PAIRS, n_bootstrap=100, seed=0).macro == {}
    losses = [values_of(t.task.name, t.values["acc"], t.values["nats"], metrics=("nats", "acc")) for t in two_tasks]
    assert figures_of(losses, NAMES, PAIRS, n_bootstrap=100, seed=0).macro == {}


def test_equal_arguments_give_equal_figures_whatever_the_pairs(two_tasks):
    assert made(two_tasks) == made(two_tasks)
    fewer = figures_of(two_tasks, NAMES, PAIRS[:1], n_bootstrap=500, seed=0)
    assert fewer.figures == made(two_tasks).figures
    assert made(two_tasks, seed=1).comparisons != made(two_tasks).comparisons


def test_the_helper_task_can_be_wrong():
    from tclora.evaluation.tasks import Likelihoods

    task: SmallTask = choice_task(n=1)
    scores = [
        task.score(task.built[0], Likelihoods(sums, (1, 1), (False, False)))["acc"]
        for sums in ((0.0, -1.0), (-1.0, 0.0))
    ]
    assert scores == [1.0, 0.0]
