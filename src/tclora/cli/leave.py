"""The end of the process, without taking apart what it holds: for the modules of torch alone that takes half a second.

What an end owes is done: threads are waited for, exit functions run, output is flushed. Memory, modules and mapped
files are left to the system. Source: `hard_exit` of mypy, which ends so for the same reason.
"""

import atexit
import os
import sys
import threading
from typing import NoReturn

__all__ = ["leave"]


def leave(status: int) -> NoReturn:
    """End the process with `status`; the ordinary way where output cannot be flushed, which then says so."""
    # As the interpreter does it: idle threads of executors are told to stop, then all but daemons are joined.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(status)
    os._exit(status)
