"""Writing: what comes back is what went in, PEFT agrees, bytes repeat, and a failure leaves nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_files import PATHS, save_adapter
from made_adapters import RANKS, random_adapter
from peft_oracle import peft_deltas, tiny_model, trained
from safetensors.torch import load_file, save

from tclora.adapters import LoraFactors, balance_factors, make_adapter, read_adapter, write_adapter
from tclora.adapters.targets import minimal_targets
from tclora.errors import AdapterError, ConfigError
from tclora.merging import merge_adapters

# A product of two numbers rounded at u each is off by 2u of its largest terms; r terms add up.
UNITS = {torch.float32: 6e-8, torch.float16: 5e-4, torch.bfloat16: 4e-3}


@pytest.mark.parametrize("dtype", UNITS)
def test_what_is_read_back_is_what_was_written(dtype: torch.dtype, tmp_path: Path):
    adapter = random_adapter(RANKS)
    back = read_adapter(write_adapter(adapter, tmp_path / "out", dtype=dtype))
    assert list(back.modules) == list(adapter.modules)
    for path in PATHS:
        expected, factors = adapter.modules[path].delta(), adapter.modules[path]
        bound = 3 * UNITS[dtype] * (factors.lora_b.abs().double() @ factors.lora_a.abs().double())
        assert bool(((back.modules[path].delta() - expected).abs() <= bound).all())


def test_one_rank_and_a_scale_of_one(tmp_path: Path):
    folder = write_adapter(random_adapter(RANKS), tmp_path / "out")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (4, 4, {}, {})
    stored = load_file(folder / "adapter_model.safetensors")
    assert {tensor.shape[0 if "lora_A" in name else 1] for name, tensor in stored.items()} == {4}
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_only_settings_that_peft_0_6_knows(tmp_path: Path):
    known = (
        "peft_type auto_mapping base_model_name_or_path revision task_type inference_mode r target_modules lora_alpha "
        "lora_dropout fan_in_fan_out bias modules_to_save init_lora_weights layers_to_transform layers_pattern "
        "rank_pattern alpha_pattern"
    )
    folder = write_adapter(random_adapter(RANKS), tmp_path / "out")
    assert set(json.loads((folder / "adapter_config.json").read_text())) <= set(known.split())


def test_a_larger_rank_pads(tmp_path: Path):
    back = read_adapter(write_adapter(random_adapter(RANKS), tmp_path / "out", rank=9))
    assert {shape.r for shape in back.shapes.values()} == {9}


def test_a_smaller_rank_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"rank 3 is too small(?s:.)*rank of at least 4"):
        write_adapter(random_adapter(RANKS), tmp_path / "out", rank=3)
    assert not (tmp_path / "out").exists()


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path):
    paths = ["a.b", "a.b-c", "lm_head", *PATHS]
    folder = write_adapter(random_adapter(dict.fromkeys(paths, 3)), tmp_path / "out", dtype=torch.float16)
    raw = (folder / "adapter_model.safetensors").read_bytes()
    stored = load_file(folder / "adapter_model.safetensors")
    assert raw == save(stored, metadata={"format": "pt"})


def test_same_adapter_same_bytes(tmp_path: Path):
    forward, backward = random_adapter(RANKS), random_adapter(RANKS)
    backward = make_adapter(
        "made",
        {path: backward.modules[path] for path in reversed(PATHS)},
        base_model="org/base",
        task_type="CAUSAL_LM",
    )
    one, two = write_adapter(forward, tmp_path / "one"), write_adapter(backward, tmp_path / "two")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_balancing_makes_norms_equal_and_keeps_the_delta():
    factors = random_adapter(RANKS).modules[PATHS[3]]
    balanced = balance_factors(factors)
    torch.testing.assert_close(balanced.lora_a.norm(dim=1), balanced.lora_b.norm(dim=0))
    torch.testing.assert_close(balanced.delta(), factors.delta(), rtol=0, atol=1e-6 * float(factors.delta().norm()))


def test_balancing_leaves_its_input_as_it_was():
    factors = random_adapter(RANKS).modules[PATHS[3]]
    before = factors.lora_a.clone(), factors.lora_b.clone()
    balance_factors(factors)
    assert torch.equal(factors.lora_a, before[0]) and torch.equal(factors.lora_b, before[1])


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_lopsided_factors_fit_half_precision_when_balanced(scale: float, tmp_path: Path):
    factors = LoraFactors(scale * torch.ones(2, 6), (1 / scale) * torch.ones(5, 2))
    adapter = make_adapter("lopsided", {"a.q_proj": factors})
    back = read_adapter(write_adapter(adapter, tmp_path / "out", dtype=torch.float16))
    torch.testing.assert_close(back.modules["a.q_proj"].delta(), factors.delta(), rtol=2e-3, atol=0)


def test_a_zero_delta_is_written(tmp_path: Path):
    adapter = make_adapter("zero", {"a.q_proj": LoraFactors(torch.ones(2, 6), torch.zeros(5, 2))})
    back = read_adapter(write_adapter(adapter, tmp_path / "out"))
    assert not back.modules["a.q_proj"].delta().any()


def test_overflow_of_the_target_dtype_is_refused_by_name(tmp_path: Path):
    adapter = make_adapter("loud", {"a.q_proj": LoraFactors(1e6 * torch.ones(1, 4), 1e6 * torch.ones(4, 1))})
    with pytest.raises(AdapterError, match=r"a\.q_proj\.lora_A\.weight overflows torch\.float16"):
        write_adapter(adapter, tmp_path / "out", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", UNITS)
def test_factors_whose_product_overflows_are_refused_as_reading_would(dtype: torch.dtype, tmp_path: Path):
    factors = LoraFactors(3e19 * torch.ones(1, 4), 3e19 * torch.ones(4, 1))
    adapter = make_adapter("loud", {"a.q_proj": LoraFactors(torch.ones(1, 4), torch.ones(4, 1))})
    # A merge can make such factors; `make_adapter` would refuse them.
    loud = replace(adapter, modules={"a.q_proj": factors})
    with pytest.raises(AdapterError, match="overflows"):
        write_adapter(loud, tmp_path / "out", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1e-20, 1e-8])
def test_what_vanishes_in_half_precision_is_refused_by_name(size: float, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    factors = LoraFactors(size * torch.randn(2, 6, generator=generator), size * torch.randn(5, 2, generator=generator))
    adapter = make_adapter("quiet", {"a.q_proj": factors})
    with pytest.raises(AdapterError, match=r"a\.q_proj\.lora_A\.weight is too small for torch\.float16"):
        write_adapter(adapter, tmp_path / "out", dtype=torch.float16)
    back = read_adapter(write_adapter(adapter, tmp_path / "out"))
    torch.testing.assert_close(back.modules["a.q_proj"].delta(), factors.delta(), rtol=0.1, atol=size**2 / 10)


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 7)])
def test_rank_one_is_written_whatever_the_strides_of_its_single_axis(shape: tuple[int, int], tmp_path: Path):
    d_out, d_in = shape
    lora_b = torch.arange(1.0, d_out + 1).as_strided((d_out, 1), (1, 128))
    lora_a = torch.arange(1.0, d_in + 1).as_strided((1, d_in), (128, 1))
    adapter = make_adapter("thin", {"a.q_proj": LoraFactors(lora_a, lora_b)})
    back = read_adapter(write_adapter(adapter, tmp_path / "out", dtype=torch.float32))
    torch.testing.assert_close(back.modules["a.q_proj"].delta(), adapter.modules["a.q_proj"].delta())


def test_an_integer_dtype_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="not stored in this dtype"):
        write_adapter(random_adapter(RANKS), tmp_path / "out", dtype=torch.int8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_peft_computes_the_same_logits_from_what_is_written(family: str, dtype: torch.dtype, tmp_path: Path):
    import peft

    pattern = {"rank_pattern": {"layers.0.*": 3, "h.0.*": 3}, "lora_alpha": 6, "use_rslora": True}
    wrapped = trained(tiny_model(family), r=2, target_modules="all-linear", **pattern)
    wrapped.save_pretrained(tmp_path / "a")
    tokens = torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        expected = wrapped(tokens).logits
        base = wrapped.unload()
        # With its random LoRA removed the model is the plain base again.
        folder = write_adapter(read_adapter(tmp_path / "a"), tmp_path / "out", dtype=dtype)
        found = peft.PeftModel.from_pretrained(base, folder).eval()(tokens).logits
    # Two layers of sums of 16 to 24 float32 terms; bf16 keeps 8 bits of each factor.
    relative = float((found - expected).norm() / expected.norm())
    assert relative < (1e-5 if dtype is torch.float32 else 5e-2)


@pytest.mark.parametrize(
    "targets", [["q_proj", "lm_head"], ["embed_tokens", "up_proj"], ["model.layers.1.mlp.up_proj"]]
)
@pytest.mark.filterwarnings("ignore")
def test_peft_finds_every_module_and_no_other(targets: list[str], tmp_path: Path):
    import peft

    wrapped = trained(tiny_model("llama"), r=2, lora_alpha=6, target_modules=targets)
    wrapped.save_pretrained(tmp_path / "a")
    expected = peft_deltas(wrapped)
    folder = write_adapter(read_adapter(tmp_path / "a"), tmp_path / "out", dtype=torch.float32)
    found = peft_deltas(peft.PeftModel.from_pretrained(tiny_model("llama"), folder))
    assert sorted(found) == sorted(expected)
    for path, delta in expected.items():
        torch.testing.assert_close(found[path], delta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("paths", "targets"),
    [
        (PATHS, ["q_proj", "v_proj"]),
        ([*PATHS, "lm_head"], ["lm_head", "q_proj", "v_proj"]),
        ([*PATHS, "model.layers.2.self_attn.q_proj"], [*(path for path in PATHS if "v_proj" in path), "q_proj"]),
        (PATHS[2:], PATHS[2:]),
        (["m.layers.0.to_out.0", "m.layers.1.to_out.0"], ["m.layers.0.to_out.0", "m.layers.1.to_out.0"]),
        ([f"m.layers.{i}.experts.{j}.up" for i in range(2) for j in range(3)], ["up"]),
        (
            ["vision.layers.0.q", "text.layers.0.q", "text.layers.1.q"],
            ["text.layers.0.q", "text.layers.1.q", "vision.layers.0.q"],
        ),
        (["embed_tokens"], ["embed_tokens"]),
        ([f"m.layers.{10**12}.q"], [f"m.layers.{10**12}.q"]),
    ],
    ids=["all", "head", "one leaf short", "last layer", "number", "experts", "towers", "embedding", "far layer"],
)
def test_targets_are_leaf_names_only_where_they_mean_the_same(paths: list[str], targets: list[str]):
    assert minimal_targets(paths) == targets


@pytest.mark.parametrize(
    ("config", "narrow"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, set()),
        ({"target_modules": "all-linear"}, set()),
        ({"target_modules": ...}, set()),
        ({"target_modules": r".*\.(q_proj|v_proj)"}, set()),
        ({"target_modules": ["q_proj", "self_attn.v_proj"]}, {"v_proj"}),
        ({"target_modules": PATHS}, {"q_proj", "v_proj"}),
        ({"target_modules": r".*self_attn.*\.(q_proj|v_proj)"}, {"q_proj", "v_proj"}),
        ({"exclude_modules": "vision.*"}, {"q_proj", "v_proj"}),
        ({"exclude_modules": []}, set()),
        ({"layers_to_transform": [0, 1]}, {"q_proj", "v_proj"}),
    ],
)
def test_leaves_that_were_chosen_by_place_are_written_by_place(config: dict, narrow: set[str], tmp_path: Path):
    adapter = read_adapter(save_adapter(tmp_path / "a", **config))
    assert adapter.narrow_leaves == narrow
    written = json.loads((write_adapter(adapter, tmp_path / "out") / "adapter_config.json").read_text())
    by_path = [path for path in PATHS if path.rsplit(".", 1)[-1] in narrow]
    assert written["target_modules"] == sorted([*({"q_proj", "v_proj"} - narrow), *by_path])


def test_a_merge_writes_a_leaf_where_one_source_targets_it_everywhere(tmp_path: Path):
    wide = read_adapter(save_adapter(tmp_path / "wide", target_modules=["q_proj", "self_attn.v_proj"]))
    narrow = read_adapter(save_adapter(tmp_path / "narrow", target_modules=r".*self_attn.*"))
    assert merge_adapters([wide, narrow], "mean").adapter.narrow_leaves == {"v_proj"}


@pytest.mark.filterwarnings("ignore")
def test_a_base_whose_other_tower_takes_no_lora_still_loads(tmp_path: Path):
    """As in Gemma 4: a vision tower whose layers have the same names, and are of a class that PEFT refuses."""
    peft = pytest.importorskip("peft")

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def base() -> torch.nn.Module:
        model = tiny_model("llama")
        model.vision = torch.nn.ModuleDict({"q_proj": Odd()})
        return model

    wrapped = trained(base(), r=2, target_modules=r"model\.layers.*\.q_proj")
    wrapped.save_pretrained(tmp_path / "a")
    adapter = read_adapter(tmp_path / "a")
    out = write_adapter(adapter, tmp_path / "out", dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base(), out)
    for path, delta in peft_deltas(loaded).items():
        torch.testing.assert_close(delta.double(), adapter.modules[path].delta().double(), rtol=1e-5, atol=1e-6)
