"""Where the tests of a benchmark run: in this process, with a small part of Python.

In: the text of a test. Out: what it defines and asserts. Refused: a test that imports more than a test of plain values
needs. This keeps a slip from doing harm; it is no jail, and tests are the benchmark's, not the model's.

`random` is given to each test as a generator of its own with a fixed seed: verdicts are the same each time, and the
process's own generator is not touched.
"""

import builtins
import importlib
import random
import sys
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, SimpleNamespace

from tclora.errors import DataError
from tclora.sandbox.jail import Stopped
from tclora.sandbox.outcome import Outcome

__all__ = ["compiled", "new_namespace", "quoted_line", "run_until"]

_FILE = "<test>"
_MODULES = {
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib",
    "heapq", "itertools", "json", "math", "numbers", "operator", "re", "statistics", "string", "typing",
}  # fmt: skip
_WITHHELD = ("open", "exec", "eval", "compile", "input", "breakpoint", "exit", "quit", "help")


def compiled(text: str, what: str, *, file: str = _FILE) -> CodeType:
    """The code of a test, or a `DataError` that shows where it does not compile."""
    try:
        return compile(text, file, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{what} does not compile", found=f"{error}: {text[:200]}") from None


def new_namespace(functions: Mapping[str, object]) -> dict[str, object]:
    """Globals for one test: the functions given, and built-ins that neither open, run nor print."""
    known = {name: value for name, value in vars(builtins).items() if name not in _WITHHELD}
    known["print"] = lambda *_args, **_kwargs: None
    known["__import__"] = _importer()
    return {"__name__": "test", "__builtins__": known, **functions}


def run_until(action: Callable[[], object], deadline: float) -> None:
    """Do `action`, a test's; raise `Stopped` at the first line that the test reaches after the deadline.

    Calls into the jail keep the deadline themselves; this one is for a loop over what such a call returned.
    """
    before = sys.gettrace()
    sys.settrace(_watch_until(deadline))
    try:
        action()
    finally:
        sys.settrace(before)


def quoted_line(error: BaseException, text: str) -> str:
    """The line of the test `text` at which an error came up; empty if it came up elsewhere."""
    number = 0
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == _FILE:
            number = step.tb_lineno
        step = step.tb_next
    lines = text.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def _watch_until(deadline: float) -> Callable:
    def line(_frame: FrameType, _event: str, _argument: object):
        if time.monotonic() > deadline:
            raise Stopped(Outcome("timeout", detail="the test did not end in time"))
        return line

    def call(frame: FrameType, _event: str, _argument: object):
        return line if frame.f_code.co_filename == _FILE else None

    return call


def _importer() -> Callable[..., object]:
    own_random = _seeded_random()

    def import_module(name: str, _globals=None, _locals=None, fromlist=(), level: int = 0) -> object:
        if name == "random" and level == 0:
            return own_random
        if level or name.split(".")[0] not in _MODULES:
            raise DataError(
                "a test imports a module that tests may not have",
                found=name,
                expected=", ".join(sorted({*_MODULES, "random"})),
            )
        module = importlib.import_module(name)
        return module if fromlist else importlib.import_module(name.split(".")[0])

    return import_module


def _seeded_random() -> SimpleNamespace:
    """Looks like the module `random`; its functions draw from a generator of its own."""
    drawn = random.Random(0)
    methods = {name: getattr(drawn, name) for name in dir(drawn) if not name.startswith("_")}
    return SimpleNamespace(**methods, Random=random.Random)
