"""End to end against PEFT's own forward: real PEFT adapters in, one merged folder out, loaded by PEFT into the model.

The oracle is PEFT as well: each adapter's `get_delta_weight`, summed with the weights and folded into the base by hand.
"""

import copy

import pytest
import torch
from peft_oracle import peft_deltas, tiny_model, trained

from tclora.adapters import read_adapter, write_adapter
from tclora.merging import merge_adapters

# Two adapters that differ in rank, scaling and targets, per family.
PAIRS = {
    "llama": (
        {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"},
        {"r": 2, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
    ),
    "qwen2": (
        {"r": 3, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}},
        {"r": 4, "lora_alpha": 8, "target_modules": r".*\.(q_proj|k_proj)", "alpha_pattern": {"k_proj": 2}},
    ),
    "gpt2": (
        {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True},
        {"r": 2, "lora_alpha": 8, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    ),
    "phi3": (
        {"r": 4, "lora_alpha": 16, "target_modules": ["qkv_proj"]},
        {"r": 4, "lora_alpha": 4, "target_modules": ["qkv_proj", "gate_up_proj"], "layers_to_transform": [1]},
    ),
}
WEIGHTS = (0.7, -0.4)
IDS = torch.tensor([[1, 5, 9, 30, 2, 17]])


def base_of(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny_model(family).eval()


def folded(base: torch.nn.Module, deltas: list[dict[str, torch.Tensor]]) -> torch.nn.Module:
    """The base with the weighted sum of the deltas added to its weights."""
    model = copy.deepcopy(base)
    for delta, weight in zip(deltas, WEIGHTS, strict=True):
        for name, update in delta.items():
            module = model.get_submodule(name)
            turned = update.T if type(module).__name__ == "Conv1D" else update
            module.weight.data += weight * turned
    return model


@pytest.fixture(params=sorted(PAIRS))
def pair(request, tmp_path):
    """Base, the two saved PEFT adapters, and their deltas by PEFT."""
    base, folders, deltas = base_of(request.param), [], []
    for index, config in enumerate(PAIRS[request.param]):
        wrapped = trained(copy.deepcopy(base), **config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                # Updates of the size of the weights: much larger ones make the model itself ill-conditioned.
                parameter.data *= 0.02
        wrapped.save_pretrained(tmp_path / f"a{index}")
        folders.append(tmp_path / f"a{index}")
        deltas.append(peft_deltas(wrapped))
    return base, folders, deltas


@pytest.mark.parametrize(("method", "params"), [("mean", {}), ("tc_lora", {"cp_rank": 20}), ("svd", {"rank": 16})])
def test_the_merged_folder_in_peft_gives_the_logits_of_the_weighted_sum(pair, tmp_path, method, params):
    """At full rank every method is the weighted sum."""
    import peft

    base, folders, deltas = pair
    adapters = [read_adapter(folder) for folder in folders]
    merged = merge_adapters(adapters, method, params=params, adapter_weights=WEIGHTS).adapter
    write_adapter(merged, tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        # Forward in float64, so that what is left is the float32 rounding of the stored factors, some layers deep.
        wanted = folded(base.double(), deltas)(IDS).logits
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "merged").double().eval()
        found = loaded(IDS).logits
        plain = base(IDS).logits
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()
    assert (plain - wanted).norm() > 0.01 * wanted.norm()
