"""Run `tclora` and kill -9 it at the N-th change of a file below a folder.

Usage: killer.py FOLDER N WORDS...   (N = 0: never kill; print the number of changes, and those of each stage, as JSON)

`forked` does the same without a start of Python, for tests that kill again and again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path


def run_watched(folder: str, limit: int, words: list[str]) -> None:
    """Run the command in this process, which ends with it."""
    root, seen = os.path.realpath(folder), 0
    stages: Counter[str] = Counter()

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event == "open":
            changes = isinstance(arguments[1], str) and any(c in arguments[1] for c in "wxa+")
            changes = changes or (arguments[1] is None and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)))
        else:
            changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        path = arguments[0] if arguments else None
        if not changes or not isinstance(path, str | os.PathLike):
            return
        full = os.path.realpath(os.fspath(path))
        if not full.startswith(root + os.sep):
            return
        seen += 1
        stages[os.path.relpath(full, root).split(os.sep)[0].strip(".").split(".")[0]] += 1
        if seen == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    sys.argv = ["tclora", *words]
    from tclora.cli import main

    try:
        main()
    finally:
        if not limit:
            print(json.dumps({"changes": seen, "stages": stages}))


def start_forked(folder: Path, limit: int, words: list[str], said: Path):
    """Start it as a forked process, which writes `out` and `err` into the folder `said`."""
    from forked import CONTEXT

    process = CONTEXT.Process(target=_child, args=(str(folder), limit, words, str(said)))
    process.start()
    return process


def forked(folder: Path, limit: int, *words: str) -> subprocess.CompletedProcess:
    """As `killer.py` does it, in a forked process."""
    with tempfile.TemporaryDirectory() as said:
        process = start_forked(folder, limit, list(words), Path(said))
        process.join(300)
        assert process.exitcode is not None, "it has not ended in 300 s"
        out, err = ((Path(said) / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _child(folder: str, limit: int, words: list[str], said: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(said, name), os.O_WRONLY | os.O_CREAT), number)
    run_watched(folder, limit, words)


if __name__ == "__main__":
    run_watched(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
