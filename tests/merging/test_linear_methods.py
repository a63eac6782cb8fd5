"""Weighted sums of deltas, and of factors apart, against PEFT's formulas written out densely."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_stacks import change, deltas, make_stack, merged, off, recipes, run

from tclora.algebra import ModuleStack
from tclora.errors import AdapterMismatchError, ConfigError
from tclora.merging import default_weight, sum_factors

EXACT = 1e-12  # sums of a few dozen products of order one, in float64, and an SVD where P exceeds the module


def total(stack, weights):
    return sum(w * d for w, d in zip(weights, deltas(stack), strict=True))


@settings(max_examples=20, deadline=None)
@given(recipe=recipes(), data=st.data())
def test_sums_of_deltas_are_what_they_say(recipe, data):
    stack = make_stack(**recipe)
    weights = data.draw(st.lists(st.floats(-2, 2), min_size=stack.n, max_size=stack.n))
    wanted = total(stack, weights)
    bound = EXACT * max(float(d.norm()) for d in deltas(stack))
    assert float((merged("cat", stack, weights) - wanted).norm()) <= bound
    assert float((merged("task_arithmetic", stack, weights, coefficient=-0.4) + 0.4 * wanted).norm()) <= bound


def test_task_arithmetic_adds_and_mean_and_cat_average():
    assert [default_weight(name, 4) for name in ("task_arithmetic", "cat", "mean")] == [1.0, 0.25, 0.25]


def test_cat_keeps_every_column_and_mean_stops_at_the_modules_size():
    stack = make_stack((4, 4, 4), d_in=7)
    ranks = [run(name, stack).delta.lora_b.shape[2] for name in ("cat", "mean", "task_arithmetic")]
    assert ranks == [12, 7, 7]


def test_a_coefficient_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="coefficient"):
        run("task_arithmetic", make_stack(), coefficient=float("nan"))


def peft_linear(lora_a, lora_b, scalings, weights):
    """`add_weighted_adapter` with `linear`: roots of weight times scaling on both factors, the sign on `lora_a`."""
    products = [w * s for w, s in zip(weights, scalings, strict=True)]
    a = sum(abs(p) ** 0.5 * (1 if p >= 0 else -1) * x for p, x in zip(products, lora_a, strict=True))
    b = sum(abs(p) ** 0.5 * x for p, x in zip(products, lora_b, strict=True))
    return b @ a


def factors_and_stack(scalings, rank=3):
    generator = torch.Generator().manual_seed(4)
    lora_a = [torch.randn(2, rank, 11, generator=generator, dtype=torch.float64) for _ in scalings]
    lora_b = [torch.randn(2, 13, rank, generator=generator, dtype=torch.float64) for _ in scalings]
    out = torch.cat([s * b for s, b in zip(scalings, lora_b, strict=True)], dim=2)
    stack = ModuleStack(("x", "y"), out, torch.cat(lora_a, dim=1).mT.contiguous(), (rank,) * len(scalings))
    return lora_a, lora_b, stack


def test_linear_factors_is_pefts_linear_where_adapters_share_a_scaling():
    scalings, weights = [2.0, 2.0, 2.0], [0.5, -0.3, 1.2]
    lora_a, lora_b, stack = factors_and_stack(scalings)
    wanted = peft_linear(lora_a, lora_b, scalings, weights)
    assert off(merged("linear_factors", stack, weights), wanted) < EXACT


def test_linear_factors_differs_from_peft_where_scalings_differ():
    """The scaling is folded into `lora_b` on reading; PEFT's cross terms take its root on either side."""
    scalings, weights = [1.0, 4.0], [0.5, 0.5]
    lora_a, lora_b, stack = factors_and_stack(scalings)
    wanted = peft_linear(lora_a, lora_b, scalings, weights)
    assert off(merged("linear_factors", stack, weights), wanted) > 0.01


def test_linear_factors_of_one_adapter_is_that_adapter_times_its_weight():
    stack = make_stack((3,))
    assert off(merged("linear_factors", stack, [-0.7]), -0.7 * stack.delta(0)) < EXACT


def test_linear_factors_has_cross_terms():
    """Two adapters at one half each are not their mean, and `n` equal ones at 1 / n give n times one."""
    apart = make_stack((2, 2))
    assert off(merged("linear_factors", apart, [0.5, 0.5]), total(apart, [0.5, 0.5])) > 0.1
    same = make_stack((2, 2, 2), flaws=())
    same = ModuleStack(
        same.names, same.out_stack[:, :, :2].repeat(1, 1, 3), same.in_stack[:, :, :2].repeat(1, 1, 3), same.ranks
    )
    assert off(merged("linear_factors", same, [1 / 3] * 3), 3 * same.delta(0)) < EXACT


def test_linear_factors_sees_how_an_adapter_was_factored():
    stack = make_stack((2, 2))
    assert off(merged("linear_factors", change(stack, "gauge")), merged("linear_factors", stack)) > 0.01


def test_sums_of_factors_take_any_weights_on_each_side():
    stack = make_stack((2, 0, 2))
    u, v = torch.tensor([[0.5, 9.0, -1.0]] * 2, dtype=torch.float64), torch.tensor([[2.0, 9.0, 3.0]] * 2).double()
    out, into = stack.out_stack, stack.in_stack
    b = 0.5 * out[:, :, :2] - 1.0 * out[:, :, 2:]
    a = 2.0 * into[:, :, :2] + 3.0 * into[:, :, 2:]
    assert off(sum_factors(stack, u, v).dense(), b @ a.mT) < EXACT


def test_factors_of_two_ranks_are_refused_by_module_and_ranks():
    with pytest.raises(AdapterMismatchError, match=r"(?s)layer\.0.*ranks 2, 0, 3.*mean, cat or svd"):
        run("linear_factors", make_stack((2, 0, 3)))
