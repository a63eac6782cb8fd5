"""The command lines that start a jail.

In: an interpreter and a level. Out: the arguments, and what `subprocess.Popen` needs beside them.
"""

import os
import shutil

from tclora.sandbox.bundle import START
from tclora.sandbox.interpreter import SYSTEM_LIBRARIES, Interpreter
from tclora.sandbox.level import Level

__all__ = ["bwrap_path", "readable_paths", "start_command"]

_NOBODY = 65534
# No site, no byte code written, no folder of the caller's on the path.
_PYTHON_OPTIONS = ("-S", "-B", "-s", "-P")
_LINKER_CACHE = "/etc/ld.so.cache"


def bwrap_path() -> str | None:
    return shutil.which("bwrap")


def start_command(interpreter: Interpreter, level: Level) -> tuple[list[str], dict]:
    """Arguments, and keywords for `Popen`."""
    python = [interpreter.path, *_PYTHON_OPTIONS, "-c", START]
    if level.backend != "bubblewrap":
        # Landlock's side drops the user by itself: it must be loaded first, from where nobody may not read.
        return python, {}
    user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if level.drops_user else {}
    return [*_bwrap(interpreter), "--", *python], user


def _bwrap(interpreter: Interpreter) -> list[str]:
    """Every namespace; nothing to see but the interpreter and its libraries; nothing to write."""
    command = [bwrap_path() or "bwrap", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox"]
    for folder in (*interpreter.folders, interpreter.path):
        command += ["--ro-bind", folder, folder]
    for folder in SYSTEM_LIBRARIES:
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
    if os.path.exists(_LINKER_CACHE):
        command += ["--ro-bind", _LINKER_CACHE, _LINKER_CACHE]
    # The root of the namespace is a small file system in memory: closed to writing once it is built.
    return [*command, "--dev-bind", "/dev/null", "/dev/null", "--remount-ro", "/", "--chdir", "/"]


def readable_paths(interpreter: Interpreter) -> list[str]:
    """What Landlock lets a program open."""
    return [*interpreter.folders, _LINKER_CACHE]
