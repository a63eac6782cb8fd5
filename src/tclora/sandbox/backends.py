"""Which jails work on this machine, found by trying them.

In: an interpreter. Out: `Level`s, best first. Refused: to choose one that does not work, and to choose none unless
that was asked for by name.

A back end counts as usable only if a jail of it has started and a program inside it has failed to open a file, write
one, make a socket and start a process: a kernel may have a feature and not let us use it.
"""

import os
import platform
import sys
from dataclasses import replace
from functools import lru_cache

from tclora.errors import ConfigError, JobFailedError
from tclora.sandbox.commands import bwrap_path
from tclora.sandbox.interpreter import Interpreter
from tclora.sandbox.jail import Stopped, open_jail
from tclora.sandbox.level import Level
from tclora.sandbox.limits import Limits

__all__ = ["BACKENDS", "levels_of", "pick_level"]

BACKENDS = ("bubblewrap", "landlock")

_ATTACKS = """
import os, socket, sys
def got_through():
    found = []
    for name, attack in (
        ("reading /etc/passwd", lambda: open("/etc/passwd").read()),
        ("writing to /tmp", lambda: open("/tmp/tclora-probe", "w")),
        ("making a socket", lambda: socket.socket()),
        ("starting a process", lambda: os.fork() or os._exit(0)),
    ):
        try: attack()
        except OSError: continue
        found.append(name)
    return found
"""
_BARE = Level("none", usable=True, gaps=("everything: files, network and other processes of yours",))


def levels_of(interpreter: Interpreter) -> tuple[Level, ...]:
    """Every back end, best first, usable or not."""
    return tuple(_tried(backend, interpreter) for backend in BACKENDS)


def pick_level(interpreter: Interpreter, backend: str, *, unsafe_no_sandbox: bool = False) -> Level:
    """The level to run at.

    Raises:
        ConfigError: the back end is unknown, or does not work here; `none` without `unsafe_no_sandbox`.
    """
    if backend not in ("auto", "none", *BACKENDS):
        expected = ", ".join(("auto", *BACKENDS, "none"))
        raise ConfigError("there is no such sandbox back end", found=backend, expected=expected)
    if backend == "none":
        if not unsafe_no_sandbox:
            raise ConfigError(
                "generated code is not run without a sandbox",
                found="backend none",
                do="say unsafe_no_sandbox as well, on a machine that you can throw away",
            )
        return _BARE
    levels = [_tried(name, interpreter) for name in BACKENDS if backend in ("auto", name)]
    usable = [level for level in levels if level.usable]
    if usable:
        return usable[0]
    # A back end that was asked for by name is not exchanged for none.
    if unsafe_no_sandbox and backend == "auto":
        return _BARE
    raise ConfigError(
        "no sandbox works on this machine, so generated code is not run",
        found="; ".join(f"{level.backend}: {level.reason}" for level in levels),
        expected="Linux on x86_64 with bubblewrap and user namespaces, or with Landlock (Linux 5.13 or newer)",
        do="install bubblewrap (apt install bubblewrap), or leave out the tasks that run code",
    )


@lru_cache
def _tried(backend: str, interpreter: Interpreter) -> Level:
    lacking = _unsupported() or (_no_bwrap() if backend == "bubblewrap" else "")
    if lacking:
        return Level(backend, usable=False, reason=lacking)
    may_drop = os.geteuid() == 0 and interpreter.open_to_all
    level = Level(backend, usable=True, drops_user=may_drop, gaps=_gaps(backend, may_drop))
    first = _attacked(level, interpreter)
    if first.usable or not may_drop:
        return first
    # A container may let root make namespaces and nobody not.
    kept = replace(level, drops_user=False, gaps=_gaps(backend, False))
    second = _attacked(kept, interpreter)
    return second if second.usable else first


def _unsupported() -> str:
    if not sys.platform.startswith("linux"):
        return f"it needs Linux, and this is {sys.platform}"
    if platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return f"its seccomp filter knows the system calls of x86_64 only, and this is {platform.machine()}"
    return ""


def _no_bwrap() -> str:
    return "" if bwrap_path() else "the program bwrap is not installed"


def _attacked(level: Level, interpreter: Interpreter) -> Level:
    try:
        with open_jail(interpreter, level, Limits()) as jail:
            abi = jail.in_force["abi"]
            jail.ask({"program": _ATTACKS, "names": ("got_through",)})
            found = jail.ask({"call": "got_through", "args": (), "kwargs": {}}).get("value")
    except JobFailedError as error:
        return replace(level, usable=False, reason=str(error.found))
    except Stopped as stopped:
        return replace(level, usable=False, reason=f"its self-test did not end: {stopped.outcome.detail}")
    if found != []:
        return replace(level, usable=False, reason=f"its self-test got through: {found}")
    return replace(level, landlock_abi=abi, gaps=level.gaps + _gaps_of_abi(level.backend, abi))


def _gaps(backend: str, drops_user: bool) -> tuple[str, ...]:
    found = []
    if backend == "landlock":
        found.append("names, sizes and times of files can be seen (not their content)")
    if backend == "landlock" and os.geteuid() == 0 and not drops_user:
        found.append("programs keep the user root, without its capabilities, for nobody cannot read the interpreter")
    return tuple(found)


def _gaps_of_abi(backend: str, abi: int) -> tuple[str, ...]:
    """What the kernel's Landlock lacks, and seccomp therefore holds alone."""
    if backend != "landlock":
        return ()
    since = ((3, "truncation"), (4, "TCP ports"), (5, "device ioctl"), (6, "signals and abstract sockets"))
    lacking = [what for first, what in since if abi < first]
    return (f"Landlock ABI {abi} lacks {', '.join(lacking)}: seccomp alone holds these",) if lacking else ()
