"""The contract that every registered method keeps; one assertion a test, so that failures do not hide one another."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stacks import dense, distance, random_adapter

from tclora.adapters import weights_digest
from tclora.errors import AdapterMismatchError, ConfigError, UnknownNameError
from tclora.merging import MERGE_METHODS, default_params, merge_adapters, parse_params

# A method that merges by statistics of inputs cannot run without them; its own tests hold it to the contract.
METHODS = tuple(entry.name for entry in MERGE_METHODS.entries() if not entry.facts.get("statistics"))
# Factors are stored in float32: a handful of roundings of 6e-8 each.
FLOAT32 = 1e-6


def adapters(size: float = 1.0, *, method: str = "mean"):
    """Adapters that differ in rank and modules, as far as the method takes such."""
    facts = MERGE_METHODS.entry(method).facts
    given = [
        random_adapter("a", 2, 1, size=size),
        random_adapter("b", 2 if facts.get("equal_ranks") else 3, 2, size=size),
        random_adapter("c", 2, 3, leaves=("mlp.up_proj",), size=size),
    ]
    return given[: facts.get("most_adapters", 3)]


def small(method: str):
    """Few sweeps: the contract does not ask how good a model is."""
    return {"max_iter": 20, "n_starts": 1, "cp_rank": 3} if method == "tc_lora" else {}


def holding(method: str, rank: int):
    """Parameters at which one adapter at weight 1 must come back; skips where the method has none."""
    params = parse_params(method, small(method)).holding(rank)
    if params is None:
        pytest.skip(f"no setting of {method} gives one adapter back")
    return params


def skip_if_it_breaks(method: str, invariance: str) -> None:
    if invariance in MERGE_METHODS.entry(method).facts.get("breaks", ()):
        pytest.skip(f"{method} lacks this invariance; the documentation says so, and a test of its own shows it")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_the_result_is_an_adapter_on_every_module_of_any(method):
    merged = merge_adapters(adapters(method=method), method, params=small(method)).adapter
    assert sorted(merged.shapes) == sorted(set().union(*(a.shapes for a in adapters(method=method))))


def test_inputs_are_left_bit_identical(method):
    before, after = adapters(method=method), adapters(method=method)
    merge_adapters(after, method, params=small(method))
    for old, new in zip(before, after, strict=True):
        for name in old.modules:
            assert torch.equal(old.modules[name].lora_a, new.modules[name].lora_a)
            assert torch.equal(old.modules[name].lora_b, new.modules[name].lora_b)


@pytest.mark.parametrize("r", [1, 4])
def test_one_adapter_at_weight_one_comes_back(method, r):
    alone = random_adapter("a", r, 7)
    merged = merge_adapters([alone], method, params=holding(method, r), adapter_weights=[1.0]).adapter
    assert distance(dense(merged), dense(alone)) < FLOAT32


def test_one_adapter_keeps_its_rank(method):
    skip_if_it_breaks(method, "alone")
    merged = merge_adapters([random_adapter("a", 3, 7)], method)
    assert merged.out_rank == 3


def test_equal_adapters_merge_to_one_of_them_in_mean(method):
    skip_if_it_breaks(method, "equal")
    same = [random_adapter(name, 2, 5) for name in "abc"[: len(adapters(method=method))]]
    weights = [1 / len(same)] * len(same)
    merged = merge_adapters(same, method, params=holding(method, 2), adapter_weights=weights)
    assert distance(dense(merged.adapter), dense(same[0])) < FLOAT32


def test_order_changes_no_bit(method):
    given = adapters(method=method)
    weights = [0.5, 0.3, 0.2][: len(given)]
    first = merge_adapters(given, method, params=small(method), adapter_weights=weights).adapter
    turned = merge_adapters(given[::-1], method, params=small(method), adapter_weights=weights[::-1]).adapter
    assert all(torch.equal(first.modules[n].lora_b, turned.modules[n].lora_b) for n in first.modules)
    assert all(torch.equal(first.modules[n].lora_a, turned.modules[n].lora_a) for n in first.modules)


def test_the_scale_of_the_adapters_carries_over(method):
    skip_if_it_breaks(method, "scale")
    one, tenfold = (
        merge_adapters(adapters(s, method=method), method, params=small(method)).adapter for s in (1.0, 10.0)
    )
    scaled = {name: 10 * delta for name, delta in dense(one).items()}
    assert distance(dense(tenfold), scaled) < 1e-5  # float32 factors, and the solver's stopping tolerance


def test_the_scale_argument_multiplies_the_result(method):
    one = merge_adapters(adapters(method=method), method, params=small(method)).adapter
    half = merge_adapters(adapters(method=method), method, params=small(method), scale=-0.5).adapter
    assert distance(dense(half), {n: -0.5 * d for n, d in dense(one).items()}) < FLOAT32


def test_how_an_adapter_is_factored_does_not_matter(method):
    """Gauge: (B S, S^-1 A) is the same adapter."""
    skip_if_it_breaks(method, "gauge")
    given = adapters(method=method)
    turn = torch.tensor([[2.0, 1.0], [0.0, 0.25]])
    first = given[0]
    modules = {
        name: dataclasses.replace(f, lora_b=f.lora_b @ turn, lora_a=torch.linalg.inv(turn) @ f.lora_a)
        for name, f in first.modules.items()
    }
    from tclora.adapters import make_adapter

    turned = [make_adapter("a", modules, base_model="org/base"), *given[1:]]
    results = [merge_adapters(x, method, params=small(method)).adapter for x in (given, turned)]
    assert distance(dense(results[0]), dense(results[1])) < 1e-5  # inverting the gauge in float32


def test_a_module_of_two_shapes_is_refused_by_name(method):
    other = random_adapter("b", 2, 2)
    factors = other.modules["model.layers.0.mlp.up_proj"]
    modules = dict(other.modules) | {
        "model.layers.0.mlp.up_proj": dataclasses.replace(factors, lora_a=torch.ones(2, 99))
    }
    from tclora.adapters import make_adapter

    with pytest.raises(AdapterMismatchError, match=r"(?s)a.*b.*model\.layers\.0\.mlp\.up_proj.*99"):
        merge_adapters([random_adapter("a", 2, 1), make_adapter("b", modules)], method)


def test_the_figures_are_finite_and_complete(method):
    result = merge_adapters(adapters(method=method), method, params=small(method))
    assert 0 <= result.relative_error < 1
    assert result.identity_error < 1e-6
    assert sorted(result.modules) == sorted(result.adapter.shapes)


def test_every_method_says_what_it_needs_and_leaves(method):
    entry = MERGE_METHODS.entry(method)
    assert entry.summary.endswith(".")
    assert entry.source
    assert {"params", "needs", "leaves", "cost"} <= set(entry.facts)


def test_parameters_are_frozen_and_unknown_ones_refused(method):
    params = default_params(method)
    with pytest.raises(ConfigError, match="has no parameter 'nope'"):
        parse_params(method, {"nope": 1})
    assert type(params).__dataclass_params__.frozen


def test_an_unknown_method_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"did you mean tc_lora"):
        merge_adapters(adapters(), "tclora")


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5, 0.5, 0.5], [float("nan"), 1.0, 1.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ConfigError, match="weight"):
        merge_adapters(adapters(), "mean", adapter_weights=weights)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from stacks import random_adapter
from tclora.adapters import weights_digest
from tclora.merging import merge_adapters
import torch
torch.set_num_threads(1)
a = [random_adapter(n, r, s) for n, r, s in (("a", 2, 1), ("b", 3, 2), ("c", 2, 3))]
print(weights_digest(merge_adapters(a, "tc_lora", params={"cp_rank": 3, "max_iter": 20}).adapter))
"""


def test_processes_and_hash_seeds_give_the_same_bytes():
    """Another process, with a hash seed that is not the one of this process."""
    folder = str(Path(__file__).parent)
    environment = {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    given = [random_adapter(name, r, seed) for name, r, seed in (("a", 2, 1), ("b", 3, 2), ("c", 2, 3))]
    ours = merge_adapters(given, "tc_lora", params={"cp_rank": 3, "max_iter": 20}).adapter
    assert done.stdout.strip() == weights_digest(ours)
