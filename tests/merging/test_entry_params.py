"""Parameters of the entry-wise methods: ranks, densities per adapter, trims over whole adapters, what is refused."""

import dataclasses
import json

import entry_oracle as oracle
import numpy as np
import pytest
import torch
from entry_cases import EXACT, FULL, WEIGHTS, library, merged, planted
from entry_oracle import far, random_stack
from stacks import dense, distance, random_adapter, weighted_sum

from tclora.errors import ConfigError, NumericalError
from tclora.merging import (
    MERGE_METHODS,
    DareParams,
    TiesParams,
    merge_adapters,
    merge_record,
    parse_params,
)
from tclora.merging.identity import identity_error
from tclora.records import to_json

# Ranks and errors


@pytest.mark.parametrize("method", ["ties", "dare", "knots", "core_space"])
def test_a_smaller_rank_keeps_the_best_approximation(method):
    stack, _ = library()
    params = parse_params(method, {"density": 0.5, "rank": FULL})
    smaller = parse_params(method, {"density": 0.5, "rank": 3})
    whole = merged(method, params, stack).numpy()
    u, s, vh = np.linalg.svd(whole)
    weights = torch.tensor([WEIGHTS], dtype=torch.float64)
    cut = MERGE_METHODS[method](stack, smaller, weights)
    assert far(cut.delta.dense()[0], (u[:, :3] * s[:3]) @ vh[:3]) < EXACT
    lost = np.sqrt((s[3:] ** 2).sum() / (s**2).sum())
    assert float(cut.relative_error[0]) == pytest.approx(lost, abs=1e-12)
    assert float(cut.size[0]) == pytest.approx(np.sqrt((s**2).sum()))


def test_by_default_the_rank_is_the_sum_of_the_adapters_ranks():
    adapters = [random_adapter("a", 2, 1), random_adapter("b", 3, 2)]
    assert merge_adapters(adapters, "ties").out_rank == 5
    assert merge_adapters(adapters, "ties", params={"rank": 2}).out_rank == 2


@pytest.mark.parametrize("method", ["magnitude_prune", "ties", "dare", "dare_ties", "della", "breadcrumbs"])
def test_at_default_parameters_one_adapter_does_not_come_back(method):
    """What `breaks=("alone",)` says of these methods: they drop entries of a single adapter too."""
    alone = random_adapter("a", 2, 3)
    found = merge_adapters([alone], method, params={"rank": FULL}, adapter_weights=[1.0])
    assert distance(dense(found.adapter), dense(alone)) > 0.01


@pytest.mark.parametrize("method", ["magnitude_prune", "dare", "breadcrumbs"])
def test_where_nothing_is_dropped_the_linear_ones_are_the_weighted_sum(method):
    adapters = [random_adapter(name, 2, seed) for seed, name in enumerate("abc")]
    found = merge_adapters(adapters, method, params={"density": 1.0}, adapter_weights=[0.5, 0.3, 0.2])
    assert distance(dense(found.adapter), weighted_sum(adapters, [0.5, 0.3, 0.2])) < 1e-6


@pytest.mark.parametrize("method", ["ties", "dare", "knots", "core_space"])
@pytest.mark.parametrize("rank", [None, 4])
def test_one_adapter_comes_back_from_a_module_that_is_read_in_tiles(method, rank):
    """Singular values over four orders, in a module beyond the size of a dense SVD."""
    stack = random_stack(400, 600, (4, 4))
    graded = torch.tensor([1, 1e-1, 1e-2, 1e-4] * 2).double()
    stack = dataclasses.replace(stack, out_stack=stack.out_stack * graded)
    params = parse_params(method, {"rank": rank})
    # The merged matrix is held in float32: 6e-8 for each entry.
    assert identity_error(stack, MERGE_METHODS[method], params, 1) < 1e-7


# Trim over whole adapters


@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
def test_a_trim_over_whole_adapters_takes_one_bound_per_adapter(method):
    adapters = [random_adapter("a", 2, 1), random_adapter("b", 2, 2, leaves=("mlp.up_proj",), size=3.0)]
    deltas = [dense(adapter) for adapter in adapters]
    bounds = []
    for delta in deltas:
        entries = np.sort(np.concatenate([np.abs(x.numpy()).ravel() for x in delta.values()]))
        bounds.append(entries[len(entries) - int(0.3 * len(entries))])
    params = {"density": 0.3, "trim": "adapter", "rank": FULL}
    found = dense(merge_adapters(adapters, method, params=params, adapter_weights=[0.5, 0.5]).adapter)
    for name, shape in ((name, x.shape) for name, x in deltas[0].items()):
        parts = [delta.get(name, torch.zeros(shape)).numpy() for delta in deltas]
        parts = [np.where(np.abs(x) >= bound, x, 0) for x, bound in zip(parts, bounds, strict=True)]
        wanted = oracle.elect(parts, [0.5, 0.5]) if method == "ties" else oracle.mix(parts, [0.5, 0.5])
        # float32 factors
        assert far(found[name], wanted) < 1e-5


def test_a_trim_over_whole_adapters_is_refused_for_a_stack_alone():
    with pytest.raises(ConfigError, match=r"(?s)whole adapters.*merge_adapters"):
        merged("ties", TiesParams(trim="adapter"))


# Order, records, refusals


def test_densities_follow_their_adapters_in_any_order():
    adapters = [random_adapter(name, 2, seed) for seed, name in enumerate("abc")]
    shares, weights = [0.2, 0.5, 0.9], [0.5, 0.3, 0.2]
    first = merge_adapters(adapters, "ties", params={"density": shares}, adapter_weights=weights)
    turned = merge_adapters(adapters[::-1], "ties", params={"density": "0.9,0.5,0.2"}, adapter_weights=weights[::-1])
    other = merge_adapters(adapters, "ties", params={"density": shares[::-1]}, adapter_weights=weights)
    assert all(torch.equal(first.adapter.modules[n].lora_b, turned.adapter.modules[n].lora_b) for n in first.modules)
    assert distance(dense(other.adapter), dense(first.adapter)) > 0.01
    assert json.loads(json.dumps(to_json(merge_record(first, dtype="float32", out=None))))["params"]["rank"] is None


@pytest.mark.parametrize(
    ("given_value", "wanted"),
    [(0.5, 0.5), ("0.5", 0.5), ("0.5, 0.25", (0.5, 0.25)), ([0.5, 1], (0.5, 1.0)), ((0.5,), (0.5,))],
)
def test_a_density_is_one_number_or_one_per_adapter(given_value, wanted):
    assert parse_params("ties", {"density": given_value}) == TiesParams(density=wanted)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("ties", {"density": 0}, "share"),
        ("ties", {"density": 1.5}, "share"),
        ("ties", {"density": [0.5, -1]}, "share"),
        ("ties", {"density": []}, "no number"),
        ("ties", {"density": "many"}, "wrong type"),
        ("ties", {"density": "0.5,many"}, "wrong type"),
        ("ties", {"density": None}, "wrong type"),
        ("ties", {"density": [0.5, 0.5]}, "once for each"),
        ("ties", {"rank": 0}, "rank"),
        ("ties", {"convention": "mine"}, "no such value"),
        ("dare", {"seed": -1}, "seed"),
        ("della", {"density": 0.1}, "epsilon"),
        ("della", {"density": 0.9}, "epsilon"),
        ("della", {"epsilon": -0.1}, "epsilon"),
        ("breadcrumbs", {"gamma": 1.0}, "gamma"),
        ("knots", {"inner": "della", "density": 0.9}, "epsilon"),
        ("knots", {"inner": "tsv"}, "no such value"),
        ("core_space", {"space": "dense"}, "no parameter"),
    ],
)
def test_wrong_parameters_are_refused(method, values, said):
    adapters = [random_adapter(name, 2, seed) for seed, name in enumerate("abc")]
    with pytest.raises(ConfigError, match=said):
        merge_adapters(adapters, method, params=values)


@pytest.mark.parametrize("method", ["ties", "knots", "core_space"])
def test_a_value_that_is_not_finite_is_refused_by_module_and_adapter(method):
    stack, _ = library()
    stack.out_stack[0, 3, 4] = float("nan")
    with pytest.raises(NumericalError, match=r"(?s)layers\.0\.q_proj.*adapter 1"):
        merged(method, parse_params(method, {}), stack)


@pytest.mark.parametrize("stack", [planted([1.0, 2.0]), random_stack(300, 280, (2,))], ids=["small", "large"])
def test_a_merged_update_that_overflows_is_refused(stack):
    huge = dataclasses.replace(stack, out_stack=stack.out_stack * 1e200, in_stack=stack.in_stack * 1e200)
    with pytest.raises(NumericalError, match=rf"(?s)not finite.*{stack.names[0]}"):
        merged("dare", DareParams(density=1.0, rank=1), huge, [1.0])
