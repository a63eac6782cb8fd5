"""Reading ahead is a hint: it opens weight files of folders, and nothing that it is given can make a command fail."""

import os

import pytest

from tclora.cli import read_ahead


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such hint")
def test_the_weights_of_every_folder_are_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: asked.append(os.readlink(f"/proc/self/fd/{fd}")))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"weights")
    read_ahead._ask((str(tmp_path / "a"), "org/an-id", "config.yaml", "\0", str(tmp_path / "b")))
    assert [path.split("/")[-2] for path in asked] == ["a", "b"]
