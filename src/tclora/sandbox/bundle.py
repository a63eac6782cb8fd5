"""The jailed side, packed for sending: it may run as a user, or in a namespace, that cannot read this package.

In: an interpreter. Out: the text of a start, for `python -c`, and the first frame that it reads.
"""

import marshal
from functools import lru_cache
from pathlib import Path
from typing import Any

from tclora.sandbox.interpreter import Interpreter

__all__ = ["START", "first_frame"]

_INSIDE = Path(__file__).parent / "inside"
_PACKAGES = ("tclora", "tclora.sandbox", "tclora.sandbox.inside")
# In the order in which they may import each other.
_MODULES = ("kernel", "syscalls", "seccomp", "landlock", "rights", "confine", "plain", "serve")
_LINUX_ONLY = ("kernel", "seccomp", "landlock", "rights")

START = """
import marshal, posix, sys
def take(n):
    got = b""
    while len(got) < n:
        part = posix.read(0, n - len(got))
        if not part: posix._exit(1)
        got += part
    return got
packages, modules, settings = marshal.loads(take(int.from_bytes(take(4), "little")))
for name in packages:
    sys.modules[name] = type(sys)(name)
for name, code in modules:
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.main(settings)
"""
"""Reads the modules from descriptor 0, makes them importable under their names, and calls the last one's `main`."""


def first_frame(interpreter: Interpreter, settings: dict) -> bytes:
    """The modules and `settings`, with the length in 4 bytes before them."""
    linux = settings["backend"] != "none"
    content: Any = (_PACKAGES, _modules(interpreter.same_bytecode, linux), settings)
    body = marshal.dumps(content, 4)
    return len(body).to_bytes(4, "little") + body


@lru_cache
def _modules(compiled: bool, linux: bool) -> tuple[tuple[str, object], ...]:
    """Compiled here where the jail's interpreter is of this version, which saves it the time; else as text."""
    found = []
    for name in _MODULES:
        if linux or name not in _LINUX_ONLY:
            path = _INSIDE / f"{name}.py"
            text = path.read_text(encoding="utf-8")
            code = compile(text, f"<jail {name}>", "exec", dont_inherit=True, optimize=0) if compiled else text
            found.append((f"{_PACKAGES[-1]}.{name}", code))
    return tuple(found)
