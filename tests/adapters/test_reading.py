"""Reading a folder: the formula, laziness, dtypes, notes and sources."""

import json
import math
import pickle
import re
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from adapter_files import PATHS, linear_names, save_adapter, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tclora.adapters import read_adapter
from tclora.errors import AdapterError


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_delta_is_the_formula(data: st.DataObject, tmp_path: Path):
    r = data.draw(st.integers(1, 9), label="r")
    alpha = data.draw(
        st.one_of(st.integers(-64, 64), st.floats(-64, 64, width=32, allow_subnormal=False)), label="alpha"
    )
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
        start = 8 + int.from_bytes(file.read(8), "little")
        size = file.seek(0, 2)
        file.seek(start)
        file.write(bytes(size - start))
    assert torch.equal(factors.lora_a, before)


def test_an_adapter_survives_being_sent_to_another_process(tmp_path: Path):
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
    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(AdapterError, match=r"cannot fetch org/name from the Hub(?s:.)*no network"):
        read_adapter("org/name", revision="main")


def test_a_hub_adapter_records_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = "0123456789012345678901234567890123456789"
    save_adapter(tmp_path / commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path / commit))
    adapter = read_adapter("org/name", revision="main")
    assert adapter.name == "name"
    assert adapter.source is not None and adapter.source.revision == commit


def test_a_revision_of_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(AdapterError, match="a folder has no revisions"):
        read_adapter(save_adapter(tmp_path / "a"), revision="main")


def test_a_folder_whose_name_begins_with_a_tilde_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_adapter(tmp_path / "~nobody-is-called-so", tensors(4), r=4)
    monkeypatch.chdir(tmp_path)
    for typed in ("./~nobody-is-called-so", "~nobody-is-called-so"):
        assert read_adapter(typed).shapes
