"""Layers that the base has and an adapter lacks: said, by module, and never refused."""

import json

import pytest
import torch
from adapter_files import save_adapter, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tclora.adapters import BaseShapes, LoraFactors, base_shapes, check_against_base, make_adapter, read_adapter
from tclora.errors import AdapterMismatchError


def base_of(names: list[str], model_type: str = "llama") -> BaseShapes:
    return BaseShapes("base", model_type, {f"{name}.weight": (5, 6) for name in names})


def adapter_of(paths: list[str]):
    return make_adapter("a", {path: LoraFactors(torch.ones(2, 6), torch.ones(5, 2)) for path in paths})


def layers(leaf: str, numbers) -> list[str]:
    return [f"model.layers.{n}.self_attn.{leaf}" for n in numbers]


def test_a_missing_last_layer_is_said():
    base = base_of(layers("q_proj", range(6)))
    (said,) = check_against_base(adapter_of(layers("q_proj", range(5))), base)
    assert said == "a has model.layers.*.self_attn.q_proj in layers 0, 1, 2, 3, 4, and the base also in layer 5"


def test_a_complete_adapter_needs_no_word():
    base = base_of([*layers("q_proj", range(6)), *layers("v_proj", range(6)), "lm_head"])
    assert check_against_base(adapter_of(layers("q_proj", range(6))), base) == ()


def test_a_layer_of_another_kind_lacks_nothing():
    # A hybrid model: layer 1 holds another mixer, or a projection of another shape.
    base = base_of(layers("q_proj", (0, 2)))
    base = BaseShapes("base", "llama", {**base.tensors, "model.layers.1.self_attn.q_proj.weight": (7, 6)})
    assert check_against_base(adapter_of(layers("q_proj", (0, 2))), base) == ()


def test_a_base_whose_names_lack_the_prefix_is_understood():
    base = base_of([f"h.{n}.attn.c_attn" for n in range(3)], "gpt2")
    (said,) = check_against_base(adapter_of(["transformer.h.0.attn.c_attn"]), base)
    assert said.endswith("in layer 0, and the base also in layers 1, 2")


def test_many_layers_are_cut_short():
    (said,) = check_against_base(adapter_of(layers("q_proj", [0])), base_of(layers("q_proj", range(80))))
    assert said.endswith("in layers 1, 2, 3, 4, 5, 6, 7, 8 and 71 more")


def test_a_module_that_the_base_lacks_is_still_refused():
    with pytest.raises(AdapterMismatchError, match=r"layers\.6\.self_attn\.q_proj is not in the base"):
        check_against_base(adapter_of(layers("q_proj", range(7))), base_of(layers("q_proj", range(6))))


def test_an_adapter_from_disk_is_compared_without_reading_tensors(tmp_path):
    made = tensors(paths=layers("q_proj", range(2)))
    made = {name: tensor * float("nan") for name, tensor in made.items()}
    adapter = read_adapter(save_adapter(tmp_path / "a", made, target_modules=["q_proj"]))
    assert len(check_against_base(adapter, base_of(layers("q_proj", range(3))))) == 1


@pytest.mark.parametrize(
    ("head", "embedding"),
    [
        ("lm_head", "transformer.word_embeddings"),
        ("lm_head", "backbone.embeddings"),
        ("lm_head", "shared"),
        ("proj_out", "model.decoder.embed_tokens"),
        ("lm_head", "embed_out"),
    ],
)
def test_an_output_layer_may_be_tied_or_go_by_another_name(head: str, embedding: str):
    assert check_against_base(adapter_of([head]), base_of([embedding])) == ()
    with pytest.raises(AdapterMismatchError, match=r"is \(5, 6\)"):
        check_against_base(adapter_of([head]), BaseShapes("base", "t5", {f"{embedding}.weight": (7, 6)}))


TOWERS = [*(f"model.encoder.layers.{n}.fc1" for n in range(3)), *(f"model.decoder.layers.{n}.fc1" for n in range(2))]


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_layer_of_one_tower_is_not_taken_for_one_of_another(prefix: str):
    base = base_of([name.removeprefix("model.") if not prefix else name for name in TOWERS])
    assert check_against_base(adapter_of(TOWERS), base) == ()
    with pytest.raises(AdapterMismatchError, match=r"decoder\.layers\.2\.fc1 is not in the base"):
        check_against_base(adapter_of(["model.decoder.layers.2.fc1"]), base)


def test_towers_that_a_checkpoint_names_otherwise_are_found():
    base = base_of(["language_model.model.layers.0.q_proj", "vision_tower.layers.0.q_proj"])
    assert check_against_base(adapter_of(["model.language_model.layers.0.q_proj"]), base) == ()


def test_a_part_that_stores_its_weights_transposed_is_known_by_its_own_type(tmp_path):
    config = {"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}, "decoder": {"model_type": "gpt2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"decoder.h.0.attn.c_attn.weight": torch.ones(6, 5)}, tmp_path / "model.safetensors")
    assert check_against_base(adapter_of(["decoder.h.0.attn.c_attn"]), base_shapes(tmp_path)) == ()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.data())
def test_exactly_the_kinds_with_a_gap_are_said(n_layers: int, data):
    held = {
        leaf: data.draw(st.sets(st.integers(0, n_layers - 1), min_size=1), label=leaf) for leaf in ("q_proj", "v_proj")
    }
    base = base_of([path for leaf in held for path in layers(leaf, range(n_layers))])
    adapter = adapter_of([path for leaf, numbers in held.items() for path in layers(leaf, numbers)])
    said = check_against_base(adapter, base)
    assert len(said) == sum(len(numbers) < n_layers for numbers in held.values())
