"""The search without gradients: planted minima, the box, the budget, and that equal calls give equal results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.merging.learning.trust_region import minimize


def bowl(n: int, seed: int):
    """A quadratic with a known minimum of value 2 inside the box, its curvatures within a factor of 10."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    curvature = q @ np.diag(rng.uniform(0.5, 5, n)) @ q.T
    center = rng.uniform(-1.2, 1.2, n)
    return (lambda x: 2 + float((x - center) @ curvature @ (x - center))), center


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_minimum_of_a_bowl_is_found(n, seed):
    function, center = bowl(n, seed)
    found = minimize(function, np.zeros(n), bound=1.5, budget=60 * n + 40)
    # Of what there was to gain all but a hundredth: a linear model stops at the scale of its last radius.
    assert found.value - 2 <= 0.01 * (function(np.zeros(n)) - 2) + 1e-6
    assert np.linalg.norm(found.point - center) < 0.2


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), budget=st.integers(1, 60), seed=st.integers(0, 10**6), edge=st.booleans())
def test_box_and_budget_are_kept_and_the_start_is_never_lost(n, budget, seed, edge):
    function, _ = bowl(n, seed)
    asked = []

    def watched(x):
        asked.append(x)
        return function(x)

    start = np.full(n, 1.5 if edge else 0.0)
    found = minimize(watched, start, bound=1.5, budget=budget)
    assert 1 <= len(asked) <= budget
    assert all(np.abs(x).max() <= 1.5 for x in asked)
    assert np.array_equal(asked[0], start)
    assert found.value == min(found.values) <= function(start)
    assert found.values[found.at] == found.value == function(found.point)


def test_a_minimum_beyond_the_box_is_met_at_its_edge():
    center = np.array([9.0, 0.5])
    found = minimize(lambda x: float((x - center) @ (x - center)), np.zeros(2), bound=1.5, budget=80)
    np.testing.assert_allclose(found.point, [1.5, 0.5], atol=1e-2)  # the scale of the last radius


def test_a_penalty_takes_what_does_not_help_to_zero():
    """That of LoRAHub, which has a kink at zero: 0.05 times the mean absolute weight."""
    found = minimize(
        lambda x: (x[0] - 1) ** 2 + 0.05 * float(np.abs(x).mean()), np.full(3, 1 / 3), bound=1.5, budget=99
    )
    # The least is at 1 - 0.05 / 6; along a kink a linear model stops short by a few radii.
    np.testing.assert_allclose(found.point, [1 - 0.05 / 6, 0, 0], atol=3e-2)


def test_equal_calls_give_equal_results():
    function, _ = bowl(5, 3)
    first, second = (minimize(function, np.zeros(5), bound=1.5, budget=50) for _ in range(2))
    assert first.values == second.values
    assert np.array_equal(first.point, second.point)


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_a_flat_function_ends_the_search(flat):
    found = minimize(lambda x: flat, np.zeros(3), bound=1.5, budget=10_000)
    assert found.value == flat
    assert len(found.values) < 200  # the radius halves from 0.3 to 1e-4, with a few points in between
