"""`cp_rank auto`: each module its own number of terms, by energy or out of one budget, in one loadable adapter."""

import pytest
import torch
from stacks import dense, distance, random_adapter

from tclora.adapters import LoraFactors, make_adapter
from tclora.errors import ConfigError
from tclora.merging import merge_adapters


def uneven(n: int = 4):
    """Layer 0: every adapter the same two directions. Layer 1: each adapter two directions of its own."""
    shared = random_adapter("shared", 2, 99, layers=1, leaves=("mlp.up_proj",))
    adapters = []
    for i in range(n):
        own = random_adapter(f"a{i}", 2, i, leaves=("mlp.up_proj",))
        modules = dict(own.modules) | {"model.layers.0.mlp.up_proj": shared.modules["model.layers.0.mlp.up_proj"]}
        adapters.append(make_adapter(f"a{i}", modules, base_model="org/base"))
    return adapters


def terms(result):
    return {name.split(".")[2]: figures["n_terms"] for name, figures in result.modules.items()}


def test_energy_gives_each_module_the_terms_it_needs():
    assert terms(merge_adapters(uneven(), params={"cp_rank": "auto:energy=1"})) == {"0": 2, "1": 8}


def test_energy_is_reached_in_every_module():
    result = merge_adapters(uneven(), params={"cp_rank": "auto:energy=0.8"})
    assert all(figures["relative_error"] ** 2 <= 0.2 + 1e-9 for figures in result.modules.values())


def test_plain_auto_explains_nine_tenths():
    plain, named = (merge_adapters(uneven(), params={"cp_rank": rule}) for rule in ("auto", "auto:energy=0.9"))
    assert terms(plain) == terms(named)


def test_a_budget_goes_where_it_explains_most():
    found = terms(merge_adapters(uneven(), params={"cp_rank": "auto:budget=5"}))
    assert found == {"0": 2, "1": 8}


def test_a_budget_is_kept():
    found = terms(merge_adapters(uneven(), params={"cp_rank": "auto:budget=3"}))
    assert sum(found.values()) == 6
    assert found["1"] > found["0"]


def test_enough_for_everything_is_the_mean():
    adapters = uneven()
    for rule in ("auto:energy=1", "auto:budget=8"):
        merged = merge_adapters(adapters, params={"cp_rank": rule}).adapter
        # Float32 factors.
        assert distance(dense(merged), dense(merge_adapters(adapters, "mean").adapter)) < 1e-5


def test_the_adapter_is_padded_to_one_rank(tmp_path):
    from safetensors.torch import load_file

    from tclora.adapters import write_adapter

    merged = merge_adapters(uneven(), params={"cp_rank": "auto:energy=1"})
    write_adapter(merged.adapter, tmp_path / "out")
    ranks = {min(t.shape) for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()}
    assert ranks == {8}


def test_order_changes_no_bit_under_a_budget():
    first, turned = (
        merge_adapters(order, params={"cp_rank": "auto:budget=3"}).adapter for order in (uneven(), uneven()[::-1])
    )
    assert all(torch.equal(first.modules[n].lora_b, turned.modules[n].lora_b) for n in first.modules)


@pytest.mark.parametrize("rule", ["automatic", "auto:energy=2", "auto:budget=0", "auto:terms=3", "many"])
def test_a_rule_that_cannot_be_read_is_refused(rule):
    with pytest.raises(ConfigError, match=r"rule|share|budget"):
        merge_adapters(uneven(), params={"cp_rank": rule})


def test_one_adapter_still_comes_back():
    alone = random_adapter("a", 3, 5)
    merged = merge_adapters([alone], params={"cp_rank": "auto:energy=1"}, adapter_weights=[1.0])
    assert distance(dense(merged.adapter), dense(alone)) < 1e-6  # float32 factors
    assert isinstance(merged.adapter.modules["model.layers.0.mlp.up_proj"], LoraFactors)
