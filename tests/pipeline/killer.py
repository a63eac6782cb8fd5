"""Run `tclora` and kill -9 it at the N-th change of a file below a folder.

Usage: killer.py FOLDER N WORDS...   (N = 0: never kill; print the number of changes, and those of each stage, as JSON)
"""

import json
import os
import signal
import sys
from collections import Counter

root, limit, words = os.path.realpath(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
seen = 0
stages: Counter[str] = Counter()


def watch(event: str, arguments: tuple) -> None:
    global seen
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
from tclora.cli import main  # noqa: E402

try:
    main()
finally:
    if not limit:
        print(json.dumps({"changes": seen, "stages": stages}))
