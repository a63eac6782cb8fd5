"""Outputs that exist, file systems that fail, interrupts: the output is whole or not there, and the old one stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapter_files import PATHS, save_adapter, tensors
from made_adapters import RANKS, random_adapter

from tclora.adapters import read_adapter, write_adapter
from tclora.artifacts import staged
from tclora.errors import ArtifactError, OutputExistsError


def test_an_existing_output_is_refused(tmp_path: Path):
    write_adapter(random_adapter(RANKS), tmp_path / "out")
    with pytest.raises(OutputExistsError, match="the output exists"):
        write_adapter(random_adapter(RANKS, seed=1), tmp_path / "out")


def test_an_empty_folder_is_not_an_output(tmp_path: Path):
    assert read_adapter(write_adapter(random_adapter(RANKS), tmp_path)).shapes


def test_overwriting_replaces_an_adapter(tmp_path: Path):
    write_adapter(random_adapter(RANKS), tmp_path / "out", card="old")
    new = random_adapter(RANKS, seed=1)
    back = read_adapter(write_adapter(new, tmp_path / "out", overwrite=True, dtype=torch.float32))
    torch.testing.assert_close(back.modules[PATHS[0]].delta(), new.modules[PATHS[0]].delta())
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "out",
    ]


def test_overwriting_the_adapter_that_is_being_read(tmp_path: Path):
    adapter = read_adapter(save_adapter(tmp_path / "a", tensors()))
    before = {path: adapter.modules[path].delta() for path in adapter.modules}
    back = read_adapter(write_adapter(adapter, tmp_path / "a", overwrite=True, dtype=torch.float32))
    for path, delta in before.items():
        torch.testing.assert_close(back.modules[path].delta(), delta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inside", ["notes.txt", "checkpoint-1/adapter_config.json"])
def test_overwriting_spares_what_is_not_an_adapter(inside: str, tmp_path: Path):
    target = tmp_path / "out" / inside
    target.parent.mkdir(parents=True)
    target.write_text("keep")
    with pytest.raises(OutputExistsError, match="not an adapter alone"):
        write_adapter(random_adapter(RANKS), tmp_path / "out", overwrite=True)
    assert target.read_text() == "keep"


def test_a_link_in_the_place_of_the_output_is_refused(tmp_path: Path):
    (tmp_path / "out").symlink_to("gone")
    with pytest.raises(OutputExistsError):
        write_adapter(random_adapter(RANKS), tmp_path / "out")


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename", "replace"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failing_file_system_leaves_what_was_there(
    call: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Fail the n-th such call for every n until the write gets through."""
    if overwrite:
        write_adapter(random_adapter(RANKS), tmp_path / "out", card="old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")}
    for n in range(1, 40):
        with monkeypatch.context() as patch:
            fail_at(patch, call, n)
            try:
                write_adapter(random_adapter(RANKS, seed=1), tmp_path / "out", overwrite=overwrite)
                break
            except ArtifactError as error:
                assert "No space left" in str(error)
        after = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")}
        if call == "fsync" and after != before:
            # The parent folder is synced after the rename: the new output is then whole and in its place.
            assert read_adapter(tmp_path / "out").shapes
            break
        assert after == before
        assert [path.name for path in tmp_path.iterdir()] == (["out"] if overwrite else [])
    assert n > 1, "at least one call was made to fail"


def fail_at(patch: pytest.MonkeyPatch, call: str, n: int) -> None:
    owner = os if call == "fsync" else Path
    real, count = getattr(owner, call), 0

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count == n:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    patch.setattr(owner, call, failing)


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(staged, "_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_adapter(random_adapter(RANKS), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_card_is_the_readme(tmp_path: Path):
    folder = write_adapter(random_adapter(RANKS), tmp_path / "deep" / "out", card="# Card\n")
    assert (folder / "README.md").read_text() == "# Card\n"


def test_files_have_ordinary_permissions(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    folder = write_adapter(random_adapter(RANKS), tmp_path / "out")
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path):
    save_adapter(tmp_path / "a", tensors(paths=[*PATHS, "lm_head", "model.layers.5.mlp.up_proj"]))
    code = "import sys; from tclora.adapters import *; write_adapter(read_adapter(sys.argv[1]), sys.argv[2])"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / seed)]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
