"""Adapters stored in half precision are stacked as they are; every method merges them as it would in single."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from stacks import random_adapter

from tclora.adapters import LoraFactors, make_adapter, read_adapter, write_adapter
from tclora.merging import MERGE_METHODS, merge_adapters, plan, plan_merge, stack_modules

METHODS = tuple(entry.name for entry in MERGE_METHODS.entries() if not entry.facts.get("statistics"))


def stored(folder, seed, *, dtype=torch.bfloat16, alpha=2.0, rank=4):
    """An adapter on disk whose scale is `alpha`."""
    write_adapter(random_adapter(f"adapter {seed}", rank, seed, layers=2), folder, dtype=dtype)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha * config["r"]}))
    return read_adapter(folder)


def stack_dtype(*adapters):
    given = plan_merge(adapters)
    return stack_modules(given.adapters, given.groups[0]).out_stack.dtype


@pytest.mark.parametrize(
    ("dtype", "alpha", "expected"),
    [
        (torch.bfloat16, 1.0, torch.bfloat16),
        (torch.bfloat16, -4.0, torch.bfloat16),
        (torch.bfloat16, 0.5, torch.float32),
        (torch.bfloat16, 3.0, torch.float32),
        (torch.bfloat16, 0.0, torch.float32),
        (torch.float16, 1.0, torch.float16),
        (torch.float16, 2.0, torch.float32),
        (torch.float32, 1.0, torch.float32),
        (torch.float64, 1.0, torch.float64),
    ],
)
def test_a_stack_is_as_narrow_as_it_can_be_without_rounding(tmp_path, dtype, alpha, expected):
    assert stack_dtype(stored(tmp_path / "a", 0, dtype=dtype, alpha=alpha)) == expected


@pytest.mark.parametrize(
    ("others", "expected"),
    [((torch.float16,), torch.float32), ((torch.float32,), torch.float32), ((torch.float64,), torch.float64)],
)
def test_the_widest_adapter_decides(tmp_path, others, expected):
    given = [stored(tmp_path / str(k), k, dtype=dtype, alpha=1.0) for k, dtype in enumerate((torch.bfloat16, *others))]
    assert stack_dtype(*given) == expected


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_bits_that_it_gives_in_single(tmp_path, monkeypatch, method):
    n = MERGE_METHODS.entry(method).facts.get("most_adapters", 3)
    given = [stored(tmp_path / str(k), k) for k in range(n)]
    params = {"max_iter": 10, "cp_rank": 3} if method == "tc_lora" else {}
    narrow = merge_adapters(given, method, params=params).adapter.modules
    monkeypatch.setattr(plan, "_dtype_of", lambda stored: torch.float32)
    wide = merge_adapters(given, method, params=params).adapter.modules
    for name in narrow:
        assert torch.equal(narrow[name].lora_a, wide[name].lora_a)
        assert torch.equal(narrow[name].lora_b, wide[name].lora_b)


def test_the_scale_is_in_the_stack_once(tmp_path):
    """Also where it cannot be folded into the stored dtype."""
    for alpha in (2.0, 3.0):
        adapter = stored(tmp_path / str(alpha), 0, alpha=alpha)
        given = plan_merge([adapter])
        stack = stack_modules(given.adapters, given.groups[0])
        factors = adapter.modules[stack.names[0]]
        assert torch.equal(stack.out_stack[0].float(), factors.lora_b)
        assert torch.equal(stack.delta(0)[0], factors.lora_b @ factors.lora_a)


def test_numbers_below_the_range_of_the_dtype_keep_their_digits(tmp_path):
    """A small factor times a small scale is subnormal, where a bfloat16 has few digits left; the delta is ordinary."""
    adapter = random_adapter("small", 4, 0, layers=1)
    small = {
        name: LoraFactors(factors.lora_a * 1e36, factors.lora_b * 1e-33) for name, factors in adapter.modules.items()
    }
    write_adapter(make_adapter("small", small), tmp_path / "a")
    tensors = {
        name: (tensor.float() * (1e33 if "lora_A" in name else 1e-33)).bfloat16()
        for name, tensor in load_file(tmp_path / "a" / "adapter_model.safetensors").items()
    }
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2.0**-20 * config["r"]}))
    given = plan_merge([read_adapter(tmp_path / "a")])
    stack = stack_modules(given.adapters, given.groups[0])
    wanted = tensors[f"base_model.model.{stack.names[0]}.lora_B.weight"].double() * 2.0**-20
    torch.testing.assert_close(stack.out_stack[0].double(), wanted, rtol=1e-4, atol=0)
