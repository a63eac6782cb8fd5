"""What runs inside a worker process: jobs from a pipe, events back through it.

In: pairs of a ticket and a pickled (function, job). Out: `Told` while a job runs, then `Finished` or `Failed`. The
worker ends when its parent does, however that ends. This module imports nothing heavy: the environment is set before
the first job brings torch along.
"""

import contextlib
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from tclora.execution.attempts import failure_of
from tclora.execution.dispatch import Failed, Finished, Told
from tclora.execution.watch import telling

__all__ = ["READY", "Throttle", "work"]

READY = "ready"
"""The first message of a worker: what it was started with could be loaded."""


def work(connection: Connection, environment: Mapping[str, str]) -> None:
    """Do jobs until the pipe closes."""
    os.environ.update(environment)
    # Ctrl-C reaches the whole group of processes; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An orderly end: locks fall and semaphores go, which Python would otherwise complain of.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(READY)
    while True:
        try:
            ticket, content = connection.recv()
        except EOFError:
            return
        _answer(connection, ticket, content)


class Throttle:
    """Lets through the first and last message of a label, and between them one in `every_s` seconds."""

    def __init__(self, every_s: float = 0.2):
        self._every_s = every_s
        self._last: dict[str, float] = {}

    def lets_pass(self, label: str, done: int, total: int) -> bool:
        """Whether this message is worth sending."""
        now = time.monotonic()
        if done < total and now - self._last.get(label, -self._every_s) < self._every_s:
            return False
        self._last[label] = now
        return True


def _answer(connection: Connection, ticket: int, content: bytes) -> None:
    throttle, room = Throttle(), select.poll()
    room.register(connection.fileno(), select.POLLOUT)

    def tell(label: str, done: int, total: int) -> None:
        # A parent that does not listen must not hold up the work: what does not fit into the pipe is dropped.
        if throttle.lets_pass(label, done, total) and room.poll(0):
            with contextlib.suppress(OSError):
                connection.send(Told(label, done, total))

    try:
        function, job = pickle.loads(content)
        with telling(tell):
            value = function(job)
        answer = pickle.dumps(Finished(ticket, value))
    except Exception as error:
        answer = pickle.dumps(Failed(ticket, failure_of(error)))
    connection.send_bytes(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        # Not sys.exit: the main thread may be deep in a training step, and the folder's lock must fall now.
        os._exit(1)
