"""One jailed process: started, spoken to under a deadline, and ended for certain.

In: an interpreter, a level, limits. Out: replies, as JSON data that nobody trusts. Refused: a jail that does not say
that every protection asked for is in force. Used as a context manager; on leaving, the process is gone.
"""

import json
import marshal
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tclora.errors import JobFailedError
from tclora.sandbox.answers import plain_dict
from tclora.sandbox.bundle import first_frame
from tclora.sandbox.commands import readable_paths, start_command
from tclora.sandbox.interpreter import Interpreter
from tclora.sandbox.level import Level
from tclora.sandbox.limits import Limits
from tclora.sandbox.outcome import Outcome

__all__ = ["Jail", "Stopped", "open_jail"]

# The only variable of the jail's own; sets then have one order. A shell's are not inherited.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_START_S = 60.0
"""For the start, which is ours; a loaded machine must not turn it into a verdict."""
_CHUNK = 65536


class Stopped(BaseException):
    """The program cannot go on, with the verdict. No `Exception`: a test's own `except` must not swallow it."""

    def __init__(self, outcome: Outcome):
        super().__init__(outcome.detail)
        self.outcome = outcome


class Jail:
    """A process that has been shut in and waits for a program."""

    def __init__(self, process: subprocess.Popen, limits: Limits):
        assert process.stdin is not None and process.stdout is not None
        self._process, self._limits = process, limits
        self.in_force: dict = {}
        """What the jailed side said when it was shut in."""
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        self._deadline = time.monotonic() + _START_S
        self._started = time.monotonic()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def start_clock(self) -> None:
        """From here on the program's own wall clock runs."""
        self._started = time.monotonic()
        self._deadline = self._started + self._limits.wall_s

    @property
    def deadline(self) -> float:
        """In the units of `time.monotonic`."""
        return self._deadline

    def ask(self, request: dict) -> dict:
        """Send one request of plain data and wait for its reply.

        Raises:
            Stopped: no reply in time, the process ended, or what came is no reply.
            ValueError: the request is no plain data.
        """
        body = marshal.dumps(request, 4)
        self.send(len(body).to_bytes(4, "little") + body)
        return self.receive()

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._to, select.POLLOUT)
            try:
                left = left[os.write(self._to, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def receive(self) -> dict:
        n_bytes = int.from_bytes(self._take(4), "little")
        # What the jailed side says about an answer that is too large is itself small.
        if n_bytes > self._limits.answer_bytes + 1024:
            raise Stopped(Outcome("execution_error", detail="the answer is too large"))
        try:
            reply = json.loads(self._take(n_bytes))
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise Stopped(Outcome("execution_error", detail="what came from the program is no answer"))
        return reply

    def kill(self) -> None:
        """End the process and all that hangs on it; when this returns, nobody holds its pipe any more."""
        self._process.kill()
        end = time.monotonic() + _START_S
        with suppress(OSError):
            while time.monotonic() < end and _ready(self._from, select.POLLIN, end):
                with suppress(BlockingIOError):
                    if not os.read(self._from, _CHUNK):
                        break
        self._process.wait()

    def last_words(self) -> str:
        """What the start complained of, when it failed."""
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        try:
            text = os.read(self._process.stderr.fileno(), _CHUNK)
        except OSError:
            text = b""
        lines = text.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it ended without a word"

    def _take(self, n_bytes: int) -> bytes:
        parts: list[bytes] = []
        while n_bytes:
            self._wait(self._from, select.POLLIN)
            with suppress(BlockingIOError):
                part = os.read(self._from, min(n_bytes, _CHUNK))
                if not part:
                    raise self._ended()
                parts.append(part)
                n_bytes -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, event: int) -> None:
        if not _ready(descriptor, event, self._deadline):
            raise Stopped(Outcome("timeout", detail=f"no answer in {self._limits.wall_s:g} s"))

    def _ended(self) -> Stopped:
        """The verdict on a process that ended before it answered."""
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return Stopped(Outcome("execution_error", detail="it closed its end of the conversation"))
        # bubblewrap reports a signal as a shell does, 128 and its number; 24 is SIGXCPU, 9 SIGKILL.
        signal = -code if code < 0 else code - 128
        if signal == 24 or (signal == 9 and time.monotonic() - self._started >= self._limits.cpu_s):
            return Stopped(Outcome("timeout", detail=f"more than {self._limits.cpu_s} s of CPU time"))
        if signal == 9:
            return Stopped(Outcome("memory", detail="the system killed it, most likely for its memory"))
        if signal > 0:
            return Stopped(Outcome("execution_error", detail=f"it crashed with signal {signal}"))
        return Stopped(Outcome("execution_error", detail=f"it ended its process with status {code}"))


@contextmanager
def open_jail(interpreter: Interpreter, level: Level, limits: Limits) -> Iterator[Jail]:
    """Start a process and see it shut in.

    Raises:
        JobFailedError: it does not start, or a protection is not in force.
    """
    command, user = start_command(interpreter, level)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            bufsize=0,
            **user,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _no_start(level, str(error)) from None
    with process:
        jail = Jail(process, limits)
        try:
            _shut_in(jail, interpreter, level, limits)
            jail.start_clock()
            yield jail
        finally:
            jail.kill()


def _shut_in(jail: Jail, interpreter: Interpreter, level: Level, limits: Limits) -> None:
    settings = {
        "backend": level.backend,
        "parent": os.getpid() if level.backend == "landlock" else 0,
        "drop_user": level.drops_user and level.backend == "landlock",
        "readable": readable_paths(interpreter),
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "answer_bytes": limits.answer_bytes,
    }
    try:
        jail.send(first_frame(interpreter, settings))
        # Said before the program was sent, so it is our own code that speaks.
        jail.in_force = plain_dict(jail.receive().get("dict"))
    except (Stopped, ValueError):
        raise _no_start(level, jail.last_words()) from None
    if jail.in_force.get("backend") != level.backend or (level.drops_user and jail.in_force.get("uid") == 0):
        raise _no_start(level, f"in force is only {jail.in_force}")


def _ready(descriptor: int, event: int, deadline: float) -> bool:
    """Wait until the descriptor can be read, written, or has hung up; False at the deadline."""
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    return left > 0 and bool(poll.poll(left * 1000))


def _no_start(level: Level, found: str) -> JobFailedError:
    return JobFailedError(
        f"the {level.backend} jail does not start",
        found=found,
        expected="a process that says it is shut in",
        do="run it again; if it stays so, ask for the other back end: Sandbox(backend=...)",
    )
