"""One rule for `--base` in merge and analyse: what is refused, what is told, what an id means."""

import pytest
import torch
from safetensors.torch import save_file

from tclora.adapters import LoraFactors, make_adapter
from tclora.errors import AdapterMismatchError
from tclora.pipeline.merges.base_check import base_folder, check_base


def adapter_in(layers: int):
    factors = {
        f"model.layers.{n}.self_attn.q_proj": LoraFactors(torch.ones(1, 6), torch.ones(8, 1)) for n in range(layers)
    }
    return make_adapter("mine", factors, base_model="org/base")


def base_in(folder, layers: int):
    weights = {f"model.layers.{n}.self_attn.q_proj.weight": torch.zeros(8, 6) for n in range(layers)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


def test_sentences_about_missing_layers_come_through(tmp_path):
    base = base_in(tmp_path, 4)
    (said,) = check_base([adapter_in(3), adapter_in(4)], base)
    assert said.startswith("mine has ")
    assert said.endswith("in layers 0, 1, 2, and the base also in layer 3")


def test_modules_beyond_the_base_are_refused(tmp_path):
    with pytest.raises(AdapterMismatchError, match=r"layers\.2\.self_attn\.q_proj is not in the base"):
        check_base([adapter_in(3)], base_in(tmp_path, 2))


def test_an_id_is_compared_by_name_and_no_base_with_nothing():
    by_name = "{} is no folder on this machine: the adapters are compared with its name alone"
    assert check_base([adapter_in(1)], "org/base") == [by_name.format("org/base")]
    told = [by_name.format("org/other"), "mine names the base org/base, not org/other"]
    assert check_base([adapter_in(1)], "org/other") == told
    assert check_base([adapter_in(1)], None) == []


def test_what_counts_as_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert base_folder("org/base") is None
    (tmp_path / "org" / "base").mkdir(parents=True)
    assert base_folder("org/base") is not None
    assert [base_folder(text) is None for text in ("./org/x", "/org/x", "~/x", "plain", "a/b/c")] == [False] * 5
    assert (base_folder("bundled") / "config.json").is_file()
