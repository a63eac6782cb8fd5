"""The Python that runs inside the jail: where it stands, and what it must be able to read.

In: a path, or nothing for this process's own base interpreter. Out: `Interpreter`. Refused: what is no CPython of 3.11
or newer.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tclora.errors import ConfigError

__all__ = ["SYSTEM_LIBRARIES", "Interpreter", "find_interpreter"]

# Asked of the interpreter itself. The extension modules are loaded so that the libraries they need show in its maps.
_QUESTION = """
import json, os, sys
for name in ("ctypes", "hashlib", "ssl", "sqlite3", "lzma", "bz2", "zlib", "decimal", "math"):
    try: __import__(name)
    except ImportError: pass
mapped = set()
if os.path.exists("/proc/self/maps"):
    with open("/proc/self/maps") as maps:
        mapped = {line.split(None, 5)[5].strip() for line in maps if len(line.split(None, 5)) == 6}
print(json.dumps({
    "version": list(sys.version_info[:3]), "name": sys.implementation.name, "tag": sys.implementation.cache_tag,
    "library": os.path.dirname(os.__file__), "dynamic": [p for p in sys.path if p.endswith("lib-dynload")],
    "mapped": sorted(p for p in mapped if p.startswith("/") and ".so" in p),
}))
"""
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Interpreter:
    path: str
    """With every symbolic link resolved."""
    version: str
    same_bytecode: bool
    """Whether it runs what this process compiles."""
    folders: tuple[str, ...]
    """Its standard library and the shared libraries: all that a program can read."""

    @property
    def open_to_all(self) -> bool:
        """Whether the user nobody could start it."""
        return all(_readable_to_all(Path(place)) for place in (self.path, *self.folders) if os.path.exists(place))


@lru_cache
def find_interpreter(python: Path | None = None) -> Interpreter:
    """Ask an interpreter about itself; the answer is kept for the life of the process."""
    path = os.path.realpath(python or getattr(sys, "_base_executable", None) or sys.executable)
    command = [path, "-I", "-S", "-B", "-c", _QUESTION]
    try:
        done = subprocess.run(command, capture_output=True, env={}, timeout=_TIME_LIMIT_S, check=True)
        facts = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            "the Python of the sandbox does not start",
            where=path,
            found=str(error),
            expected="CPython 3.11 or newer",
            do="name another interpreter: Sandbox(python=...)",
        ) from None
    if facts["name"] != "cpython" or tuple(facts["version"]) < (3, 11):
        raise ConfigError(
            "the Python of the sandbox is too old, or not CPython",
            where=path,
            found=f"{facts['name']} {'.'.join(map(str, facts['version']))}",
            expected="CPython 3.11 or newer",
        )
    return Interpreter(
        path=path,
        version=".".join(map(str, facts["version"])),
        same_bytecode=facts["tag"] == sys.implementation.cache_tag,
        folders=_folders(facts),
    )


def _folders(facts: dict) -> tuple[str, ...]:
    """The system's library folders, then what the interpreter uses elsewhere; resolved, none inside another."""
    wanted = {*SYSTEM_LIBRARIES, facts["library"], *facts["dynamic"], *map(os.path.dirname, facts["mapped"])}
    kept: list[str] = []
    # The outer ones first.
    for folder in sorted({os.path.realpath(folder) for folder in wanted}, key=lambda path: (len(path), path)):
        if os.path.isdir(folder) and not any(folder.startswith(f"{outer}/") for outer in kept):
            kept.append(folder)
    return tuple(kept)


def _readable_to_all(path: Path) -> bool:
    above = [parent.stat().st_mode & 0o001 for parent in path.parents]
    own = path.stat().st_mode
    return all(above) and own & 0o004 != 0 and own & 0o001 != 0
