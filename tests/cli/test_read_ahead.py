"""Reading ahead is a hint: it opens weight files of folders, and nothing that it is given can make a command fail."""

import hashlib
import os

import pytest

from tclora.artifacts import known_digests, known_sha256
from tclora.cli import read_ahead


def folders(root):
    """Words of a command: two adapters and what is none."""
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "adapter_model.safetensors").write_bytes(b"weights of " + name.encode())
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "adapter_model.safetensors")
    return (str(root / "a"), "org/an-id", "config.yaml", "\0", str(root / "pipe"), str(root / "b"))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such hint")
def test_the_weights_of_every_folder_are_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: asked.append(os.readlink(f"/proc/self/fd/{fd}")))
    read_ahead._ask([file for word in folders(tmp_path) for file in read_ahead._weight_files(word)])
    assert [path.split("/")[-2] for path in asked] == ["a", "b"]


def test_digests_are_taken_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(known_digests, "_at_work", [])
    read_ahead.read_ahead(folders(tmp_path), digests=True)
    monkeypatch.setattr(known_digests, "_digest", None)
    for name in ("a", "b"):
        found = known_sha256(tmp_path / name / "adapter_model.safetensors")
        assert found == hashlib.sha256(b"weights of " + name.encode()).hexdigest()


def test_words_that_are_no_folders_start_nothing(monkeypatch):
    monkeypatch.setattr(known_digests, "_at_work", [])
    read_ahead.read_ahead(("org/an-id", "merge.yaml"), digests=True)
    assert known_digests._at_work == []
