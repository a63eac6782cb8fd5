"""Adapters in memory, summaries, and whether adapters belong together or to a base."""

import json
from pathlib import Path

import pytest
import torch
from adapter_files import PATHS, PREFIX, save_adapter, tensors
from peft_oracle import tiny_model, trained
from safetensors.torch import save_file

from tclora.adapters import (
    Adapter,
    LoraFactors,
    ModuleShape,
    base_shapes,
    check_against_base,
    check_mergeable,
    check_same_base,
    inspect_adapter,
    make_adapter,
    read_adapter,
    weights_digest,
)
from tclora.errors import AdapterError, AdapterMismatchError


def one(
    name: str = "one", path: str = "model.layers.0.q_proj", d_in: int = 6, d_out: int = 5, **about: object
) -> Adapter:
    return make_adapter(name, {path: LoraFactors(torch.ones(2, d_in), torch.ones(d_out, 2))}, **about)


def test_shapes_are_derived():
    shape = one().shapes["model.layers.0.q_proj"]
    assert (shape.d_out, shape.d_in, shape.r, shape.kind) == (5, 6, 2, "linear")


def test_embeddings_are_what_they_are_said_to_be():
    assert one(embeddings=["model.layers.0.q_proj"]).shapes["model.layers.0.q_proj"].kind == "embedding"
    with pytest.raises(AdapterError, match="embeddings names modules the adapter lacks"):
        one(embeddings=["other"])


def test_modules_come_in_sorted_order():
    made = make_adapter("m", {path: LoraFactors(torch.ones(1, 2), torch.ones(2, 1)) for path in ("b", "a", "c")})
    assert list(made.modules) == list(made.shapes) == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(dtype: torch.dtype):
    made = make_adapter("m", {"a": LoraFactors(torch.ones(1, 2, dtype=dtype), torch.ones(2, 1))})
    assert made.modules["a"].lora_a.dtype == torch.float32


def test_an_adapter_without_modules_is_refused():
    with pytest.raises(AdapterError, match="at least one module"):
        make_adapter("m", {})


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a.", "a/b", "a b", "a\nb", "a\x1bb", "../a", "x" * 600])
def test_a_path_that_is_not_a_dotted_name_is_refused(path: str):
    with pytest.raises(AdapterError, match="is not a module path"):
        one(path=path)


def test_values_that_are_not_finite_are_refused_in_memory():
    factors = LoraFactors(torch.ones(2, 6), torch.full((5, 2), float("nan")))
    with pytest.raises(AdapterError, match=r"lora_b holds values that are not finite(?s:.)*module a\.q_proj"):
        make_adapter("m", {"a.q_proj": factors})


def test_the_digest_is_that_of_the_file(tmp_path: Path):
    import hashlib

    adapter = read_adapter(save_adapter(tmp_path / "a"))
    assert (
        weights_digest(adapter) == hashlib.sha256((tmp_path / "a/adapter_model.safetensors").read_bytes()).hexdigest()
    )


def test_the_digest_sees_a_changed_file(tmp_path: Path):
    before = weights_digest(read_adapter(save_adapter(tmp_path / "a")))
    assert weights_digest(read_adapter(save_adapter(tmp_path / "a", tensors(seed=1)))) != before


def test_the_digest_depends_on_the_tensors_and_not_the_name():
    assert weights_digest(one("x")) == weights_digest(one("y"))
    assert weights_digest(one("x")) != weights_digest(one("x", path="other"))


def test_a_summary_says_what_is_in_an_adapter(tmp_path: Path):
    summary = inspect_adapter(save_adapter(tmp_path / "a", use_rslora=True))
    assert (summary.name, summary.base_model, summary.ranks, summary.n_modules) == ("a", "org/base", (2,), 4)
    assert summary.n_parameters == 4 * 2 * (6 + 5)
    assert (summary.dtypes, summary.targets, summary.layers) == (("F32",), ("q_proj", "v_proj"), (0, 1))
    assert summary.scale_rule == "alpha / sqrt(r) with alpha 4, r 2"
    assert summary.finite and summary.refusals == ()
    assert summary.bytes == sum(file.stat().st_size for file in (tmp_path / "a").iterdir())


def test_a_summary_of_nothing_says_so(tmp_path: Path):
    assert "there is no such adapter" in inspect_adapter(tmp_path / "gone").refusals[0]


def test_a_summary_lists_each_damaged_module(tmp_path: Path):
    made = {name: value * float("nan") for name, value in tensors().items()}
    assert len(inspect_adapter(save_adapter(tmp_path / "a", made)).refusals) == len(PATHS)


def test_adapters_of_one_shape_can_be_merged():
    check_mergeable([one("x"), one("y"), one("z", path="elsewhere", d_in=9)])


def test_adapters_of_two_shapes_cannot_be_merged():
    with pytest.raises(
        AdapterMismatchError,
        match=r"x and z cannot be merged at model\.layers\.0\.q_proj(?s:.)*lora_a \(2, 6\)(?s:.)*lora_a \(2, 9\)",
    ):
        check_mergeable([one("x", base_model="A"), one("y"), one("z", d_in=9, base_model="B")])


def test_two_kinds_of_module_cannot_be_merged():
    with pytest.raises(AdapterMismatchError, match="embedding"):
        check_mergeable([one("x"), one("y", embeddings=["model.layers.0.q_proj"])])


def test_other_bases_are_warned_about_by_name():
    adapters = [one("x", base_model="A", base_revision="1"), one("y"), one("z", base_model="B", base_revision="1")]
    assert check_same_base(adapters) == ("x names the base model A, but z names B",)


def test_one_base_needs_no_warning():
    assert check_same_base([one("x", base_model="A"), one("y", base_model="A"), one("z")]) == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_an_adapter_fits_its_own_base(family: str, tmp_path: Path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "base", max_shard_size="10KB")
    embedding = "wte" if family == "gpt2" else "embed_tokens"
    for targets in ("all-linear", ["lm_head", embedding]):
        folder = tmp_path / f"a-{targets[0]}"
        trained(tiny_model(family), r=2, target_modules=targets).save_pretrained(folder)
        check_against_base(read_adapter(folder), base_shapes(tmp_path / "base"))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_base_is_refused(tmp_path: Path):
    tiny_model("llama").save_pretrained(tmp_path / "base")
    shapes = base_shapes(tmp_path / "base")
    paths = ["model.layers.0.self_attn.q_proj", "model.layers.9.self_attn.q_proj"]
    adapter = read_adapter(save_adapter(tmp_path / "a", tensors(paths=paths)))
    with pytest.raises(
        AdapterMismatchError, match=r"q_proj is \(5, 6\)(?s:.)*layers\.9\.self_attn\.q_proj is not in the base"
    ):
        check_against_base(adapter, shapes)


def test_a_transposed_update_fits_only_where_weights_are_stored_so(tmp_path: Path):
    for model_type, fits in (("gpt2", True), ("llama", False)):
        folder = tmp_path / model_type
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        save_file({"h.0.attn.c_attn.weight": torch.ones(6, 5)}, folder / "model.safetensors")
        adapter, shapes = one(path="transformer.h.0.attn.c_attn"), base_shapes(folder)
        if fits:
            check_against_base(adapter, shapes)
        else:
            with pytest.raises(AdapterMismatchError, match="does not fit"):
                check_against_base(adapter, shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_in_memory_have_a_digest_in_every_dtype_and_layout(dtype: torch.dtype):
    # A transposed row is contiguous, and its last stride is not 1.
    layouts = [(torch.ones(1, 6), torch.ones(1, 5).T), (torch.ones(6, 1).T, torch.ones(5, 1))]
    digests = set()
    for lora_a, lora_b in layouts:
        modules = {"q": LoraFactors(lora_a.to(dtype), lora_b.to(dtype))}
        digests.add(weights_digest(Adapter("a", modules, {"q": ModuleShape(5, 6, 1)})))
    assert len(digests) == 1


NAMES = [
    ("language_model.model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
    ("model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.self_attn.q_proj"),
    ("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
    ("language_model.lm_head", "lm_head"),
]


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_one_module_under_two_names_is_refused(old: str, new: str):
    with pytest.raises(AdapterMismatchError, match=r"(?s)name one module differently.*version of transformers"):
        check_mergeable([one("a", path=old), one("b", path=new)])


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_two_modules_of_one_adapter_are_two(old: str, new: str):
    factors = one(path=old).modules[old]
    both = make_adapter("both", {old: factors, new: factors})
    check_mergeable([both, one("a", path=old), one("b", path=new)])


def test_modules_of_two_towers_are_two():
    paths = ("model.encoder.layers.0.fc1", "model.decoder.layers.0.fc1", "vision_model.layers.0.fc1")
    check_mergeable([one(str(n), path=path) for n, path in enumerate(paths)])


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    with pytest.raises(AdapterError, match="names no files"):
        base_shapes(tmp_path)


@pytest.mark.needs_shared
def test_the_shapes_of_a_real_base(shared: Path):
    shapes = base_shapes(shared / "models" / "seed-lm")
    assert shapes["model.layers.5.self_attn.k_proj.weight"] == (128, 256)


def test_a_copy_of_the_base_beside_an_embedding_is_ignored_with_a_note(tmp_path: Path):
    made = {
        PREFIX + "model.embed_tokens.lora_embedding_A": torch.ones(2, 40),
        PREFIX + "model.embed_tokens.lora_embedding_B": torch.ones(16, 2),
        PREFIX + "model.embed_tokens.base_layer.weight": torch.ones(40, 16),
    }
    adapter = read_adapter(save_adapter(tmp_path / "a", made, target_modules=["embed_tokens"]))
    assert list(adapter.modules) == ["model.embed_tokens"]
    assert "left out 1 base weights" in adapter.notes[0]
