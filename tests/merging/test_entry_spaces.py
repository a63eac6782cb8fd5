"""KnOTS and Core Space against their dense definitions, and what the small spaces keep and lose."""

import dataclasses

import entry_oracle as oracle
import numpy as np
import pytest
import torch
from entry_cases import EXACT, WEIGHTS, gauged, library, merged
from entry_oracle import dense_deltas, far, random_stack
from stacks import dense, distance, random_adapter

from tclora.merging import CoreSpaceParams, KnotsParams, TiesParams, merge_adapters, parse_params


def knots_oracle(deltas, rule):
    u, s, _ = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    u = u[:, s > 1e-9 * s[0]]
    return u @ rule([u.T @ delta for delta in deltas])


def core_oracle(deltas, factors, rule):
    def side(columns):
        u, s, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
        return u[:, s > 1e-9 * s[0]]

    u, v = side([b for b, _ in factors]), side([a for _, a in factors])
    return u @ rule([u.T @ delta @ v for delta in deltas]) @ v.T


def balanced(delta):
    u, s, vh = np.linalg.svd(delta)
    r = int((s > 1e-9 * max(s[0], 1e-30)).sum())
    return u[:, :r] * np.sqrt(s[:r]), vh[:r].T * np.sqrt(s[:r])


def stored(stack):
    out, into = stack.out_stack[0].numpy(), stack.in_stack[0].numpy()
    return [(out[:, block], into[:, block]) for block in stack.blocks()]


RULES = {
    "mean": lambda parts: oracle.mix(parts, WEIGHTS),
    "magnitude_prune": lambda parts: oracle.mix([oracle.trim(x, 0.6) for x in parts], WEIGHTS),
    "ties": lambda parts: oracle.elect([oracle.trim(x, 0.6) for x in parts], WEIGHTS),
    "breadcrumbs": lambda parts: oracle.mix([oracle.band(x, 0.6, 0.1) for x in parts], WEIGHTS),
}


@pytest.mark.parametrize("inner", sorted(RULES))
def test_knots_is_the_rule_on_the_aligned_parts(inner):
    stack, deltas = library()
    params = KnotsParams(inner=inner, density=0.6, gamma=0.1)
    assert far(merged("knots", params, stack), knots_oracle(deltas, RULES[inner])) < EXACT


@pytest.mark.parametrize("factors", ["balanced", "stored"])
@pytest.mark.parametrize("inner", sorted(RULES))
def test_core_space_is_the_rule_on_the_core_matrices(inner, factors):
    stack, deltas = library()
    columns = stored(stack) if factors == "stored" else [balanced(delta) for delta in deltas]
    params = CoreSpaceParams(inner=inner, density=0.6, gamma=0.1, factors=factors)
    assert far(merged("core_space", params, stack), core_oracle(deltas, columns, RULES[inner])) < EXACT


@pytest.mark.parametrize("inner", ["dare", "dare_ties", "della"])
@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_random_inner_rules_run_and_depend_on_the_seed(method, inner):
    kind = KnotsParams if method == "knots" else CoreSpaceParams
    first, again, other = (merged(method, kind(inner=inner, density=0.5, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("space", ["knots", "core"])
def test_a_space_as_a_method_is_the_method_in_that_space(space):
    name, kind = ("knots", KnotsParams) if space == "knots" else ("core_space", CoreSpaceParams)
    as_space = merged("ties", TiesParams(density=0.4, space=space))
    assert torch.equal(as_space, merged(name, kind(inner="ties", density=0.4)))


@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_the_small_spaces_lose_nothing_to_the_rank(method):
    adapters = [random_adapter(name, 2, seed) for seed, name in enumerate("abc")]
    result = merge_adapters(adapters, method, params={"density": 0.5})
    assert result.out_rank == 6
    assert result.relative_error < 1e-12


def test_core_space_from_stored_factors_depends_on_how_an_adapter_is_factored():
    stack, _ = library()
    turned = gauged(stack, torch.tensor([[2.0, 1.0], [0.0, 0.25]]).double())
    loose, firm = (
        [merged("core_space", CoreSpaceParams(factors=factors, density=0.5), x) for x in (stack, turned)]
        for factors in ("stored", "balanced")
    )
    assert float((loose[0] - loose[1]).norm() / loose[0].norm()) > 0.01
    assert float((firm[0] - firm[1]).norm() / firm[0].norm()) < 1e-12


@pytest.mark.parametrize("method", ["knots", "core_space"])
def test_large_float32_factors_are_taken_in_every_space(method):
    """Bases of large float32 factors are lifted in float32."""
    stack = random_stack(20_000, 24, (8, 8))
    single = dataclasses.replace(stack, out_stack=stack.out_stack.float(), in_stack=stack.in_stack.float())
    wanted = oracle.mix(dense_deltas(single), [0.5, 0.5])
    found = merged(method, parse_params(method, {"inner": "mean"}), single, [0.5, 0.5])
    assert far(found, wanted) < 1e-5


def test_equal_adapters_share_a_core_of_their_own_rank():
    same = [random_adapter(name, 2, 5) for name in "abc"]
    result = merge_adapters(same, "core_space", params={"inner": "ties"})
    assert distance(dense(result.adapter), dense(same[0])) < 1e-6
