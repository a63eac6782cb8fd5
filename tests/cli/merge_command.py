"""`tclora` in this process: the same entry, without the seconds that starting Python costs."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tclora.cli.app import _status


def tclora(*words: object) -> subprocess.CompletedProcess:
    """Run one command; the result is that of a process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["tclora", *map(str, words)]
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        try:
            status = _status([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
    return subprocess.CompletedProcess(words, status or 0, out.getvalue(), err.getvalue())


def last_json(done: subprocess.CompletedProcess) -> dict:
    """The last line of a command's output."""
    return json.loads(done.stdout.strip().split("\n")[-1])


def weights_of(folder: Path) -> tuple[bytes, bytes]:
    """What a merge is: the bytes of its weights and config."""
    return tuple((folder / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json"))
