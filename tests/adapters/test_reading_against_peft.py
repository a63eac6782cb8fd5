"""Deltas against PEFT's own `get_delta_weight`, on tiny models of several families built from their configs."""

from pathlib import Path

import pytest
import torch
from peft_oracle import peft_deltas, tiny_model, trained

from tclora.adapters import read_adapter

# PEFT computes the delta in float32: r products of O(1) and one scaling round a few times at 6e-8.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


CONFIGS = {
    "alpha/r = 0.5": {"r": 4, "lora_alpha": 2, "target_modules": ["q_proj", "down_proj"]},
    "alpha/r = 1": {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]},
    "alpha/r = 4": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]},
    "alpha negative": {"r": 4, "lora_alpha": -8, "target_modules": ["q_proj"]},
    "alpha zero": {"r": 4, "lora_alpha": 0, "target_modules": ["q_proj"]},
    "rslora": {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj"]},
    "rank pattern": {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2}, "target_modules": ["q_proj", "v_proj"]},
    "alpha pattern": {"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 3}, "target_modules": ["q_proj", "v_proj"]},
    "both": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 32},
        "target_modules": ["q_proj", "v_proj"],
    },
    "both, rslora": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "rank_pattern": {r"model\.layers\.0\..*": 2, "q_proj": 3},
        "alpha_pattern": {r"^model.layers.1.*(q|v)_proj": 32, "v_proj": 5},
        "target_modules": ["q_proj", "v_proj"],
    },
    "suffix": {"r": 2, "target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]},
    "regex": {"r": 2, "target_modules": r"model\.layers\.\d+\.(self_attn|mlp)\.(q|up)_proj"},
    "all-linear": {"r": 2, "target_modules": "all-linear"},
    "some layers": {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "head": {"r": 2, "target_modules": ["lm_head", "q_proj"]},
    "embedding": {"r": 2, "target_modules": ["embed_tokens", "q_proj"]},
    "orthogonal": {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "mica": {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": "mica"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_deltas_are_those_of_peft(name: str, tmp_path: Path):
    wrapped = trained(tiny_model("llama"), **CONFIGS[name])
    wrapped.save_pretrained(tmp_path / "a")
    adapter = read_adapter(tmp_path / "a")
    expected = peft_deltas(wrapped)
    assert list(adapter.modules) == sorted(expected)
    for path, delta in expected.items():
        found = adapter.modules[path].delta().float()
        found = found.T if adapter.shapes[path].kind == "embedding" else found
        torch.testing.assert_close(found, delta, **FLOAT32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gpt2", "qwen2", "qwen3", "phi3"])
def test_deltas_are_those_of_peft_in_other_families(family: str, tmp_path: Path):
    wrapped = trained(tiny_model(family), r=3, lora_alpha=7, target_modules="all-linear")
    wrapped.save_pretrained(tmp_path / "a")
    adapter, expected = read_adapter(tmp_path / "a"), peft_deltas(wrapped)
    assert list(adapter.modules) == sorted(expected)
    for path, delta in expected.items():
        torch.testing.assert_close(adapter.modules[path].delta().float(), delta, **FLOAT32)


@pytest.mark.filterwarnings("ignore")
def test_a_converted_pissa_adapter_is_a_plain_lora(tmp_path: Path):
    torch.manual_seed(0)
    import peft

    model = tiny_model("llama")
    before = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights="pissa", target_modules=["q_proj"]))
    wrapped.peft_config["default"].init_lora_weights = True
    wrapped.save_pretrained(tmp_path / "start")
    wrapped.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    q_proj = wrapped.base_model.model.model.layers[0].self_attn.q_proj
    after = q_proj.base_layer.weight + q_proj.get_delta_weight("default")
    wrapped.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    delta = read_adapter(tmp_path / "a").modules["model.layers.0.self_attn.q_proj"].delta()
    # Differences of numbers of size 0.1, each rounded to float32.
    torch.testing.assert_close(delta, (after - before).double(), rtol=0, atol=1e-5)
