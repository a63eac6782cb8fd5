"""Adapters that are damaged, hostile or not plain LoRAs: each is refused by name, in time, and nothing is written."""

import contextlib
import resource
import time
from pathlib import Path

import pytest
import torch
from adapter_files import CONFIG, PATHS, save_adapter, save_config, tensors
from bad_adapters import BAD, HEAVY

from tclora.adapters import inspect_adapter, read_adapter, write_adapter
from tclora.errors import AdapterError


def read_all(folder: Path) -> None:
    adapter = read_adapter(folder)
    for path in adapter.modules:
        adapter.modules[path]


REFUSED = {name: case for name, case in BAD.items() if case[1] is not None}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_adapter_is_refused_by_name(name: str, tmp_path: Path):
    build, message = REFUSED[name]
    build(tmp_path / "bad")
    with pytest.raises(AdapterError, match=message) as caught:
        read_all(tmp_path / "bad")
    assert "bad" in str(caught.value.where), "the message names the folder"
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", HEAVY)
def test_a_bad_adapter_takes_little_time(name: str, tmp_path: Path):
    BAD[name][0](tmp_path / "bad")
    started = time.process_time()
    with contextlib.suppress(AdapterError):
        read_all(tmp_path / "bad")
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("name", REFUSED)
def test_inspection_lists_the_refusal_and_does_not_raise(name: str, tmp_path: Path):
    build, message = REFUSED[name]
    build(tmp_path / "bad")
    summary = inspect_adapter(tmp_path / "bad")
    assert not summary.finite
    with pytest.raises(AdapterError, match=message):
        raise AdapterError("\n".join(summary.refusals))


@pytest.mark.parametrize("name", ["nan", "inf", "product overflows"])
def test_writing_a_bad_adapter_leaves_nothing(name: str, tmp_path: Path):
    BAD[name][0](tmp_path / "bad")
    with pytest.raises(AdapterError):
        write_adapter(read_adapter(tmp_path / "bad"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_a_header_bomb_takes_little_memory(tmp_path: Path):
    BAD["metadata bomb"][0](tmp_path / "bad")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AdapterError):
        read_adapter(tmp_path / "bad")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"


def test_every_refused_setting_of_one_config_is_listed(tmp_path: Path):
    save_adapter(tmp_path / "bad", use_dora=True, lora_bias=True, use_rslora="maybe")
    refusals = "\n".join(inspect_adapter(tmp_path / "bad").refusals)
    assert all(name in refusals for name in ("use_dora", "lora_bias", "use_rslora"))


@pytest.mark.parametrize("position", range(16))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_wherever_it_is(position: int, value: float, tmp_path: Path):
    made = tensors(seed=position)
    name = sorted(made)[position % len(made)]
    made[name].view(-1)[(7 * position) % made[name].numel()] = value
    save_adapter(tmp_path / "bad", made)
    with pytest.raises(AdapterError, match=name.replace(".", r"\.")):
        read_all(tmp_path / "bad")


def test_a_missing_path_says_what_is_expected(tmp_path: Path):
    with pytest.raises(AdapterError, match="there is no such adapter"):
        read_adapter(tmp_path / "gone")


def test_a_file_is_not_an_adapter(tmp_path: Path):
    save_adapter(tmp_path / "a")
    with pytest.raises(AdapterError, match="an adapter is a folder"):
        read_adapter(tmp_path / "a" / "adapter_config.json")


def test_a_sub_folder_is_suggested(tmp_path: Path):
    save_adapter(tmp_path / "run" / "math")
    with pytest.raises(AdapterError, match=r"sub-folders may be meant: .*run/math"):
        read_adapter(tmp_path / "run")


def test_names_that_no_file_system_has_are_refused():
    for name in ("a\0b", "x" * 5000, ""):
        with pytest.raises(AdapterError):
            read_adapter(name)


def test_mutated_configs_end_in_an_error_or_a_right_result(tmp_path: Path):
    save_adapter(tmp_path / "a")
    good = read_adapter(tmp_path / "a").modules[PATHS[0]].delta()
    odd = [..., None, True, False, -1, 0, 1e308, "x", "", [], ["x"], {}, {"x": 1}, [[]], "(" * 50, 2**70]
    for field in CONFIG:
        for value in odd:
            save_config(tmp_path / "a", **{field: value})
            try:
                delta = read_adapter(tmp_path / "a").modules[PATHS[0]].delta()
            except AdapterError:
                continue
            scale = 4 if field != "lora_alpha" else float(value)
            assert torch.allclose(delta, good * scale / 4), (field, value)
