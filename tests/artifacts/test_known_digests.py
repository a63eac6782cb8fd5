"""Digests that are remembered, and those that another process takes meanwhile."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tclora.artifacts import begin_digests, known_digests, known_sha256


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(known_digests, "_known", {})
    monkeypatch.setattr(known_digests, "_at_work", [])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def some_file(folder, content=b"weights"):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"weights", b"x" * (2**20 + 1)])
def test_it_is_the_sha256_of_the_bytes(tmp_path, content):
    assert known_sha256(some_file(tmp_path, content)) == sha256(content)


def test_a_file_is_read_once_for_as_long_as_it_stays(tmp_path, monkeypatch):
    path, read = some_file(tmp_path), []
    digest = known_digests._digest
    monkeypatch.setattr(known_digests, "_digest", lambda given: (read.append(given), digest(given))[1])
    assert known_sha256(path) == known_sha256(path)
    assert read == [path]


def test_other_bytes_of_the_same_length_have_another_digest(tmp_path):
    path = some_file(tmp_path, b"first")
    known_sha256(path)
    written = os.stat(path).st_mtime_ns
    path.write_bytes(b"other")
    # The same time of writing, as a copy that keeps times leaves it: the time of the change still tells.
    os.utime(path, ns=(written, written))
    assert known_sha256(path) == sha256(b"other")


def test_another_process_has_taken_them(tmp_path, monkeypatch):
    path = some_file(tmp_path)
    begin_digests([path, tmp_path / "missing"])
    monkeypatch.setattr(known_digests, "_digest", None)
    assert known_sha256(path) == sha256(b"weights")


def test_a_process_that_died_is_no_loss(tmp_path):
    path = some_file(tmp_path)
    begin_digests([path])
    known_digests._at_work[0].process.kill()
    assert known_sha256(path) == sha256(b"weights")


def test_a_change_after_the_process_read_is_seen(tmp_path):
    path = some_file(tmp_path)
    begin_digests([path])
    known_digests._at_work[0].process.wait()
    path.write_bytes(b"another")
    assert known_sha256(path) == sha256(b"another")


def test_a_command_that_ends_leaves_no_process_behind(tmp_path):
    """The other process is at a pipe that nobody writes to, so that only being ended ends it."""
    os.mkfifo(tmp_path / "pipe")
    script = (
        "from pathlib import Path; from tclora.artifacts import begin_digests, known_digests as k;"
        f"begin_digests([Path({str(tmp_path / 'pipe')!r})]); print(k._at_work[0].process.pid)"
    )
    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    until = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended; who has ended may wait there to be asked for its status."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_file_that_nobody_asked_for_keeps_nobody_waiting(tmp_path):
    """The process is at a pipe that nobody writes to; what it was not given, and what it has done, is there at once."""
    path = some_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other").mkdir()
    begin_digests([path, tmp_path / "pipe"])
    assert known_sha256(some_file(tmp_path / "other", b"other")) == sha256(b"other")
    assert known_sha256(path) == sha256(b"weights")
    known_digests._end_helpers()


def test_another_command_in_the_same_process_ends_the_helper_of_the_last(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    begin_digests([tmp_path / "pipe"])
    first = known_digests._at_work[0].process
    begin_digests([some_file(tmp_path)])
    assert first.poll() is not None
    assert len(known_digests._at_work) == 1


@pytest.mark.parametrize("interpreter", ["echo", "says-more", "missing", "", None])
def test_an_interpreter_that_is_none_is_no_loss(tmp_path, monkeypatch, interpreter):
    path, script = some_file(tmp_path), tmp_path / "says-more"
    script.write_text(f'#!/bin/sh\necho module loaded\necho 3\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    given = {"echo": "/bin/echo", "says-more": str(script), "missing": str(tmp_path / "missing")}
    monkeypatch.setattr(sys, "executable", given.get(interpreter or "", interpreter))
    begin_digests([path])
    assert known_sha256(path) == sha256(b"weights")


def test_the_process_ends_with_the_one_that_asked(tmp_path):
    """Killed, that one can end nobody; the file would take minutes."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**40)
    script = (
        "import os, signal; from pathlib import Path; from tclora.artifacts import begin_digests, known_digests as k;"
        f"begin_digests([Path({str(tmp_path / 'large')!r})]); print(k._at_work[0].process.pid, flush=True);"
        "import time; time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    until = time.monotonic() + 10
    while _runs(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(int(done.stdout))


def test_what_cannot_be_read_is_an_error_of_who_asks(tmp_path):
    with pytest.raises(FileNotFoundError):
        known_sha256(tmp_path / "missing")
