"""The plan: every example once an epoch, budgets kept, passes that cover the batch."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tclora.config.schema import TrainConfig
from tclora.models import Tokens
from tclora.training import expected_steps, learning_rate, plan_batches
from tclora.training.plan import split_rows


def rows(n):
    return [Tokens(tuple(range(1, 4 + i % 9)), 2) for i in range(n)]


def flat(plan):
    return [index for batch in plan.batches for index in batch]


@given(n=st.integers(1, 40), epochs=st.integers(1, 3), batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_whole_epochs_hold_every_example_equally_often(n, epochs, batch_size, seed):
    params = TrainConfig(epochs=epochs, batch_size=batch_size)
    plan = plan_batches(rows(n), params, seed=seed, max_tokens=None)
    assert sorted(flat(plan)) == sorted(list(range(n)) * epochs)
    assert len(plan.batches) == expected_steps(n, params)
    assert plan.n_tokens == sum(len(rows(n)[index].ids) for index in flat(plan))
    assert plan.n_response_tokens == plan.n_tokens - 2 * n * epochs


def test_a_fraction_of_an_epoch_is_a_fraction_of_the_examples():
    plan = plan_batches(rows(10), TrainConfig(epochs=0.5, batch_size=4), seed=0, max_tokens=None)
    assert len(set(flat(plan))) == 5


def test_max_steps_cuts_the_same_plan():
    long, short = (
        plan_batches(rows(30), TrainConfig(epochs=2, batch_size=4, max_steps=steps), seed=3, max_tokens=None)
        for steps in (None, 5)
    )
    assert short.batches == long.batches[:5]


@given(budget=st.integers(1, 600))
def test_a_budget_is_never_exceeded_but_by_a_single_first_batch(budget):
    params = TrainConfig(epochs=1, batch_size=4, max_steps=2)
    plan = plan_batches(rows(20), params, seed=0, max_tokens=budget)
    assert plan.n_tokens <= budget or len(plan.batches) == 1


def test_a_budget_goes_past_epochs_and_max_steps():
    params = TrainConfig(epochs=1, batch_size=4, max_steps=2)
    assert len(plan_batches(rows(20), params, seed=0, max_tokens=1000).batches) > 20


def test_epochs_and_seeds_differ_in_order():
    params = TrainConfig(epochs=2, batch_size=20)
    plan = plan_batches([Tokens((1, 2, 3), 1)] * 20, params, seed=0, max_tokens=None)
    other = plan_batches([Tokens((1, 2, 3), 1)] * 20, params, seed=1, max_tokens=None)
    assert plan.batches[0] != plan.batches[1] and plan.batches[0] != other.batches[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_rises_to_its_peak_and_never_reaches_zero(schedule):
    params = TrainConfig(lr=1e-3, schedule=schedule, warmup_fraction=0.2)
    rates = [learning_rate(step, 50, params) for step in range(50)]
    assert rates[:11] == pytest.approx([1e-4 * (step + 1) for step in range(10)] + [1e-3])
    assert all(late <= early for early, late in itertools.pairwise(rates[10:]))
    assert min(rates) > 0


lengths = st.lists(st.integers(1, 200), min_size=1, max_size=9).map(lambda sizes: sorted(sizes, reverse=True))


@given(sizes=lengths, max_rows=st.integers(1, 9), max_tokens=st.integers(1, 900), pass_cost=st.integers(0, 300))
def test_passes_are_the_cheapest_cover(sizes, max_rows, max_tokens, pass_cost):
    def cost(cuts):
        return sum((end - start) * sizes[start] + pass_cost for start, end in cuts)

    def is_allowed(start, end):
        return end - start == 1 or (end - start <= max_rows and (end - start) * sizes[start] <= max_tokens)

    cuts = split_rows(sizes, max_rows=max_rows, max_tokens=max_tokens, pass_cost=pass_cost)
    found = [(cut.start, cut.stop) for cut in cuts]
    inner = range(1, len(sizes))
    covers = (
        list(itertools.pairwise((0, *chosen, len(sizes))))
        for n in range(len(sizes))
        for chosen in itertools.combinations(inner, n)
    )
    allowed = [cover for cover in covers if all(is_allowed(*one) for one in cover)]
    assert found in allowed
    assert cost(found) == min(map(cost, allowed))
