"""Deltas against PEFT's own `get_delta_weight`, on tiny models of several families built from their configs."""

import math
from pathlib import Path

import pytest
import torch
from adapter_files import PATHS, linear_names, save_adapter, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tclora.adapters import read_adapter
from tclora.errors import AdapterError

# PEFT computes the delta in float32: r products of O(1) and one scaling round a few times at 6e-8.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


def tiny_model(family: str) -> torch.nn.Module:
    import transformers as tf

    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        config = tf.GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2
        )
        return tf.GPT2LMHeadModel(config)
    kinds = {
        "llama": (tf.LlamaConfig, tf.LlamaForCausalLM),
        "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM),
        "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM),
        "phi3": (tf.Phi3Config, tf.Phi3ForCausalLM),
    }
    config_class, model_class = kinds[family]
    if family == "phi3":
        sizes.pop("head_dim")
    return model_class(config_class(**sizes))


def trained(model: torch.nn.Module, **config: object) -> torch.nn.Module:
    """The model with a LoRA whose tensors are all random; PEFT starts lora_B at zero."""
    import peft

    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **config}))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return wrapped.eval()


def peft_deltas(wrapped: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = module.get_delta_weight("default").detach()
            found[name] = delta.T if getattr(module, "fan_in_fan_out", False) else delta
    return found


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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_delta_is_the_formula(data: st.DataObject, tmp_path: Path):
    r = data.draw(st.integers(1, 9), label="r")
    alpha = data.draw(st.one_of(st.integers(-64, 64), st.floats(-64, 64, width=32)), label="alpha")
    rslora = data.draw(st.booleans(), label="rslora")
    patterns = st.sampled_from(["q_proj", "v_proj", "layers.0.*", r"model\.layers\.1\.self_attn\.q_proj", "k_proj"])
    alphas = data.draw(st.dictionaries(patterns, st.integers(-9, 9), max_size=3), label="alpha_pattern")
    dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
    dtype_a, dtype_b = data.draw(dtypes), data.draw(dtypes)
    made = tensors(r, seed=r)
    made = {name: value.to(dtype_a if "lora_A" in name else dtype_b) for name, value in made.items()}
    save_adapter(tmp_path / "a", made, r=r, lora_alpha=alpha, use_rslora=rslora, alpha_pattern=alphas)
    adapter = read_adapter(tmp_path / "a")
    for path in PATHS:
        name_a, name_b = linear_names(path)
        scale = pattern_value(alphas, path, alpha) / (math.sqrt(r) if rslora else r)
        expected = made[name_b].double() @ made[name_a].double() * scale
        # One rounding of the scale and one of the product, relative to the largest entry.
        bound = 4e-7 * float(expected.abs().max()) * r
        assert float((adapter.modules[path].delta() - expected).abs().max()) <= bound


def pattern_value(patterns: dict[str, int], path: str, default: float) -> float:
    """PEFT's rule, from its documentation: the first key that is the path or a dotted end of it, as a regex."""
    import re

    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)


def test_a_float64_source_stays_float64(tmp_path: Path):
    save_adapter(tmp_path / "a", {name: value.double() for name, value in tensors().items()})
    assert read_adapter(tmp_path / "a").modules[PATHS[0]].lora_b.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_sources_become_float32(dtype: torch.dtype, tmp_path: Path):
    save_adapter(tmp_path / "a", {name: value.to(dtype) for name, value in tensors().items()})
    factors = read_adapter(tmp_path / "a").modules[PATHS[0]]
    assert {factors.lora_a.dtype, factors.lora_b.dtype} == {torch.float32}


def test_reading_one_module_reads_no_other(tmp_path: Path):
    made = tensors()
    made[linear_names(PATHS[1])[0]][0, 0] = float("nan")
    adapter = read_adapter(save_adapter(tmp_path / "a", made))
    assert sorted(adapter.modules) == sorted(PATHS)
    adapter.modules[PATHS[0]]
    with pytest.raises(AdapterError, match="not finite"):
        adapter.modules[PATHS[1]]


def test_reading_does_not_read_a_huge_file(tmp_path: Path):
    import json
    import time

    rows = 2**31  # a sparse file of 16 GB, of which the header alone is ever read
    name_a, name_b = linear_names(PATHS[0])
    header = {
        name_a: {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]},
        name_b: {"dtype": "F32", "shape": [rows, 2], "data_offsets": [48, 48 + rows * 8]},
    }
    raw = json.dumps(header).encode()
    file = save_adapter(tmp_path / "a") / "adapter_model.safetensors"
    file.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with open(file, "r+b") as opened:
        opened.truncate(8 + len(raw) + 48 + rows * 8)
    started = time.process_time()
    adapter = read_adapter(tmp_path / "a")
    assert adapter.shapes[PATHS[0]].d_out == rows
    assert time.process_time() - started < 1.0


def test_what_is_read_does_not_change_with_the_file(tmp_path: Path):
    adapter = read_adapter(save_adapter(tmp_path / "a"))
    factors = adapter.modules[PATHS[0]]
    before = factors.lora_a.clone()
    with open(tmp_path / "a" / "adapter_model.safetensors", "r+b") as file:
        file.seek(-200, 2)
        file.write(bytes(200))
        file.seek(8 + 1000)
        file.write(bytes(100))
    assert torch.equal(factors.lora_a, before)


def test_an_adapter_survives_being_sent_to_another_process(tmp_path: Path):
    import pickle

    adapter = read_adapter(save_adapter(tmp_path / "a"))
    modules = pickle.loads(pickle.dumps(adapter.modules))
    assert torch.equal(modules[PATHS[0]].lora_b, adapter.modules[PATHS[0]].lora_b)


def test_an_embedded_adapter_name_is_dropped_with_a_note(tmp_path: Path):
    made = {name.replace(".weight", ".default.weight"): value for name, value in tensors().items()}
    adapter = read_adapter(save_adapter(tmp_path / "a", made))
    assert list(adapter.modules) == sorted(PATHS)
    assert any("'default'" in note for note in adapter.notes)


def test_notes_say_what_config_and_tensors_disagree_about(tmp_path: Path):
    adapter = read_adapter(save_adapter(tmp_path / "a", target_modules=["q_proj", "k_proj"]))
    notes = "\n".join(adapter.notes)
    assert "targets k_proj, for which the file holds no tensors" in notes
    assert "v_proj, which the config does not target; they are used" in notes


def test_a_missing_layer_is_noted(tmp_path: Path):
    paths = [path.replace("layers.1", "layers.3") for path in PATHS]
    adapter = read_adapter(save_adapter(tmp_path / "a", tensors(paths=paths)))
    assert "q_proj has no tensors in layers 1 to 2, but has them in later layers" in adapter.notes


def test_a_plain_adapter_has_no_notes(tmp_path: Path):
    assert read_adapter(save_adapter(tmp_path / "a")).notes == ()


def test_facts_are_those_of_the_config(tmp_path: Path):
    adapter = read_adapter(save_adapter(tmp_path / "maths"))
    assert (adapter.name, adapter.base_model, adapter.base_revision, adapter.task_type) == (
        "maths",
        "org/base",
        "abc",
        "CAUSAL_LM",
    )


def test_links_to_regular_files_are_followed(tmp_path: Path):
    blobs, folder = save_adapter(tmp_path / "blobs"), tmp_path / "snapshot"
    folder.mkdir()
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(file)
    assert read_adapter(folder).name == "snapshot"


def test_a_hub_id_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(AdapterError, match=r"cannot fetch org/name from the Hub(?s:.)*no network"):
        read_adapter("org/name", revision="main")


def test_a_hub_adapter_records_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    commit = "0123456789012345678901234567890123456789"
    save_adapter(tmp_path / commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path / commit))
    adapter = read_adapter("org/name", revision="main")
    assert adapter.name == "name"
    assert adapter.source is not None and adapter.source.revision == commit
