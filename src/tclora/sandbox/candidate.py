"""The program in the jail, as functions that can be called from here.

In: a jail that is shut in. Out: what calls return, as plain values. A call that raises, raises here an exception of
the same built-in type; a program that can do no more raises `Stopped`.
"""

import builtins
from collections.abc import Callable

from tclora.errors import DataError
from tclora.sandbox.answers import from_plain
from tclora.sandbox.jail import Jail, Stopped
from tclora.sandbox.outcome import Opaque, Outcome, Status

__all__ = ["Candidate", "CandidateError"]


class CandidateError(Exception):
    """The program raised an exception that Python does not have."""


class Candidate:
    """A loaded program."""

    def __init__(self, jail: Jail):
        self._jail = jail
        self.stopped: Outcome | None = None
        """The verdict, once the program can do no more; a test that swallows `Stopped` does not change it."""
        self.raised: BaseException | None = None
        """The last exception that came from the program."""
        self.last_words = ""
        """Its type and message, as the program gave them."""

    @property
    def deadline(self) -> float:
        """In the units of `time.monotonic`."""
        return self._jail.deadline

    def load(self, program: str, names: tuple[str, ...]) -> None:
        """Run the program's text, and see that it defines `names`."""
        reply = self._ask({"program": program, "names": names})
        if "invalid" in reply:
            self._stop("invalid_code", str(reply["invalid"]))
        if "raised" in reply:
            name, message = _exception(reply)
            self._stop("memory" if name == "MemoryError" else "execution_error", f"{name}: {message}")
        missing = reply.get("missing")
        if missing != []:
            named = ", ".join(map(str, missing)) if isinstance(missing, list) else "what is asked for"
            self._stop("invalid_code", f"it does not define {named}")

    def function(self, name: str) -> Callable[..., object]:
        """The program's function `name`; arguments and result are plain data."""

        def call(*args: object, **kwargs: object) -> object:
            return self._call(name, args, kwargs)

        call.__name__ = name
        return call

    def _call(self, name: str, args: tuple, kwargs: dict) -> object:
        try:
            reply = self._ask({"call": name, "args": args, "kwargs": kwargs})
        except ValueError:
            raise self._not_sent(name, (*args, *kwargs.values())) from None
        if "raised" in reply:
            raise self._reraised(reply)
        try:
            value = from_plain(reply["value"])
            _update(args, reply.get("changed", []))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            self._stop("execution_error", "what came from the program is no answer")
        return value

    def _ask(self, request: dict) -> dict:
        if self.stopped is not None:
            raise Stopped(self.stopped)
        try:
            return self._jail.ask(request)
        except Stopped as stopped:
            self.stopped = stopped.outcome
            raise

    def _stop(self, status: Status, detail: str) -> None:
        self.stopped = Outcome(status, detail=_line(detail))
        raise Stopped(self.stopped)

    def _reraised(self, reply: dict) -> BaseException:
        name, message = _exception(reply)
        known = getattr(builtins, name, None)
        if name == "MemoryError":
            self._stop("memory", f"{name}: {message}")
        if name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
            self._stop("execution_error", f"{name}: {message}")
        try:
            error = known(message) if isinstance(known, type) and issubclass(known, Exception) else None
        except TypeError:  # UnicodeDecodeError and the like take more than a message
            error = None
        self.last_words = _line(f"{name}: {message}")
        self.raised = error or CandidateError(f"{name}: {message}")
        return self.raised

    def _not_sent(self, name: str, values: tuple) -> BaseException:
        if any(isinstance(value, Opaque) for value in values):
            self._stop("execution_error", f"{name} would be given a value that is no plain data")
        return DataError(
            "a test hands over a value that is no plain data",
            where=name,
            found=", ".join(type(value).__name__ for value in values),
            expected="numbers, texts, bytes, None, and lists, tuples, sets and dicts of these",
        )


def _update(args: tuple, changed: object) -> None:
    """Change the lists, dicts and sets of the call as the program changed its copies."""
    if not isinstance(changed, list):
        raise ValueError("the changes are no list")
    for place, data in changed:
        new = from_plain(data)
        old = args[place]
        if isinstance(old, list) and isinstance(new, list):
            old[:] = new
        elif (isinstance(old, dict) and isinstance(new, dict)) or (isinstance(old, set) and isinstance(new, set)):
            old.clear()
            old.update(new)


def _exception(reply: dict) -> tuple[str, str]:
    found = reply["raised"]
    if isinstance(found, list) and len(found) == 2:
        return str(found[0])[:100], str(found[1])[:300]
    return "Exception", ""


def _line(text: str) -> str:
    """One line of at most 300 printable characters."""
    return "".join(c if c.isprintable() else " " for c in text[:300])
