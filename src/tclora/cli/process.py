"""The beginning and the end of the process.

The end takes nothing apart: for the modules of torch alone that takes half a second. What an end owes is done: threads
are waited for, exit functions run, output is flushed. Memory, modules and mapped files are left to the system. Source:
`hard_exit` of mypy, which ends so for the same reason.
"""

import atexit
import errno
import os
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["begin", "leave"]


def begin() -> None:
    """Give the process streams to write to where it was started without; else its first file would take their place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end


def leave(status: int) -> NoReturn:
    """End the process with `status`; with 1 in place of 0 where output could not be written."""
    # As the interpreter does it: idle threads of executors are told to stop, then all but daemons are joined.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    lost = [error for stream in (sys.stdout, sys.stderr) if (error := _flush(stream)) is not None]
    for error in lost:
        # A reader that has had enough closes the pipe, and need not be told.
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                os.write(2, f"the output could not be written: {error.strerror or error}\n".encode())
    os._exit(status or int(bool(lost)))


def _flush(stream: Any) -> OSError | None:
    try:
        with suppress(ValueError):  # closed, and flushed by that
            stream.flush()
    except OSError as error:
        return error
    return None
