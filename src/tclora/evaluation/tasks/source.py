"""Where a benchmark's file is: the folder that was named, the environment's, or a copy made from the Hub.

In: a name such as `eval/boolq`. Out: the path of its JSON lines (`.jsonl` or `.jsonl.gz`) in the shared schema. A
folder named in the request must hold the file; folders of the environment may. Only then is the Hub asked, and what it
gives is written once, in the same schema, under $TCLORA_CACHE (or ~/.cache/tclora), so the next run needs no network.
Refused, saying what to do: a file that is nowhere.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tclora.artifacts import sha256_file
from tclora.errors import DataError
from tclora.evaluation.tasks.hub import HUB_SETS, fetch

__all__ = ["file_facts", "find_file", "find_local"]


def find_file(name: str, data: Path | None) -> Path:
    """The file called `name` (a folder and a stem), from the request's folder, the environment's, or the Hub.

    Raises:
        DataError: it is nowhere, and the Hub has no such set or cannot be reached.
        MissingExtraError: it is on the Hub and the datasets package is not installed.
    """
    path = find_local(name, data)
    if path is not None:
        return path
    if data is not None:
        raise DataError(
            "the data folder lacks a benchmark's file",
            where=data,
            expected=f"{name}.jsonl.gz or {name}.jsonl",
            do="name another folder, or none to take the environment's or the Hub's",
        )
    if name not in HUB_SETS:
        raise DataError(
            "a benchmark's file cannot be found",
            where=" and ".join(str(folder) for folder in _folders(None)) or "no data folder is set",
            expected=f"{name}.jsonl.gz or {name}.jsonl; the Hub has no set for it",
            do="name the folder that holds it, or set TCLORA_DATA to it",
        )
    return fetch(name, _cache())


def find_local(name: str, data: Path | None) -> Path | None:
    """As `find_file`, without the Hub: a folder's file, a copy made earlier, or None."""
    folders = list(_folders(data)) + ([_cache()] if data is None else [])
    paths = (folder / f"{name}{ending}" for folder in folders for ending in (".jsonl.gz", ".jsonl"))
    return next((path for path in paths if path.is_file()), None)


def file_facts(path: Path, role: str = "file") -> Mapping[str, object]:
    """The file's name and digest, to be stored with every result."""
    return {role: path.name, f"{role}_sha256": sha256_file(path)}


def _folders(data: Path | None) -> Iterator[Path]:
    if data is not None:
        yield data.expanduser()
        return
    if os.environ.get("TCLORA_DATA"):
        yield Path(os.environ["TCLORA_DATA"]).expanduser()
    if os.environ.get("TCLORA_SHARED"):
        yield Path(os.environ["TCLORA_SHARED"]).expanduser() / "data"


def _cache() -> Path:
    named = os.environ.get("TCLORA_CACHE")
    return Path(named).expanduser() if named else Path("~/.cache/tclora").expanduser()
