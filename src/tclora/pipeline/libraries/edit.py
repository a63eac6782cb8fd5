"""What one does with a library: look at it, rename an adapter, remove one.

In: a library folder. Out: plain rows and facts, or a changed index. Renaming changes the index alone. Removing takes
the adapter out of the index, in one step, and then its files where no run owns them; its centroid stays in its row,
so no other cluster's number changes, and a cluster without an adapter is given no new examples. Refused: unknown and
taken names, and removing the last adapter.
"""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tclora.adapters import inspect_adapter
from tclora.artifacts import folder_lock, read_json
from tclora.errors import ArtifactError, ConfigError
from tclora.pipeline.layout import MULTI_TASK
from tclora.pipeline.libraries.index import Library, LibraryEntry, open_library, write_index
from tclora.records import ClusterRecord, ClusterSummary, from_json, to_json

__all__ = [
    "LibraryRow",
    "check_name",
    "cluster_of",
    "list_library",
    "remove_adapter",
    "rename_adapter",
    "show_adapter",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class LibraryRow:
    """One adapter, in a line."""

    name: str
    cluster: int | None
    ranks: tuple[int, ...]
    n_modules: int
    n_examples: int | None
    n_waiting: int
    dev_loss: float | None
    bytes: int
    sha256: str
    state: str


def list_library(folder: str | Path) -> tuple[LibraryRow, ...]:
    """Every adapter, in the order of the index. A missing or changed one is listed as such."""
    library = open_library(folder)
    return tuple(_row(library, entry) for entry in library.index.adapters)


def show_adapter(folder: str | Path, name: str) -> dict[str, Any]:
    """All that is known of one adapter: its files, its training, its cluster.

    Raises:
        UnknownNameError: the library has no such adapter.
    """
    library = open_library(folder)
    entry = library.entry(name)
    summary = inspect_adapter(library.folder(entry))
    cluster = cluster_of(library, entry)
    return {
        "name": entry.name,
        "folder": str(library.folder(entry)),
        "state": library.state(entry),
        "sha256": entry.sha256,
        "source": entry.source,
        "base_model": summary.base_model,
        "ranks": list(summary.ranks),
        "targets": list(summary.targets),
        "n_modules": summary.n_modules,
        "n_parameters": summary.n_parameters,
        "bytes": summary.bytes,
        "training": _training(library, entry),
        "cluster": None if cluster is None else to_json(cluster),
    }


def rename_adapter(folder: str | Path, old: str, new: str) -> None:
    """Give an adapter another name; no file moves.

    Raises:
        ConfigError: the new name is taken or not a name.
    """
    library = open_library(folder)
    with folder_lock(library.root):
        library = open_library(folder)
        entry = library.entry(old)
        check_name(new, taken=[other.name for other in library.index.adapters if other is not entry])
        adapters = tuple(replace(e, name=new) if e is entry else e for e in library.index.adapters)
        write_index(replace(library, index=replace(library.index, adapters=adapters)))


def remove_adapter(folder: str | Path, name: str) -> bool:
    """Take an adapter out of the library.

    Returns:
        whether its files were removed too; those of a run stay, or the run would train it again.

    Raises:
        ConfigError: it is the last one.
    """
    library = open_library(folder)
    with folder_lock(library.root):
        library = open_library(folder)
        entry = library.entry(name)
        kept = tuple(other for other in library.index.adapters if other is not entry)
        if not kept:
            raise ConfigError("a library keeps at least one adapter", where=library.root, found=f"only '{name}'")
        write_index(replace(library, index=replace(library.index, adapters=kept)))
        # After the index: a kill in between leaves files that nothing names, never a name without files.
        owned = library.belongs_to_run and entry.folder.startswith("library/")
        if not owned:
            shutil.rmtree(library.folder(entry), ignore_errors=True)
        return not owned


def check_name(name: str, *, taken: list[str]) -> None:
    """Refuse what cannot be an adapter's name.

    Raises:
        ConfigError: it is taken, reserved, or not a plain file name.
    """
    if name in taken:
        raise ConfigError("two adapters would have one name", found=name, do="choose another name")
    if not _NAME.fullmatch(name) or name == MULTI_TASK:
        raise ConfigError(
            "this cannot be an adapter's name",
            found=name,
            expected=f"letters, digits, '.', '_' and '-', at most 64, not '{MULTI_TASK}'",
        )


def cluster_of(library: Library, entry: LibraryEntry) -> ClusterSummary | None:
    """What the entry's cluster is about, where the library has clusters."""
    if entry.cluster is None or library.index.cluster is None:
        return None
    record = from_json(ClusterRecord, read_json(library.root / library.index.cluster / "record.json"))
    return next((cluster for cluster in record.clusters if cluster.index == entry.cluster), None)


def _row(library: Library, entry: LibraryEntry) -> LibraryRow:
    summary = inspect_adapter(library.folder(entry))
    return LibraryRow(
        name=entry.name,
        cluster=entry.cluster,
        ranks=summary.ranks,
        n_modules=summary.n_modules,
        n_examples=entry.n_examples,
        n_waiting=entry.n_waiting,
        dev_loss=entry.dev_loss,
        bytes=summary.bytes,
        sha256=entry.sha256,
        state=library.state(entry),
    )


def _training(library: Library, entry: LibraryEntry) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "n_examples": entry.n_examples,
        "n_waiting": entry.n_waiting,
        "train_loss": entry.train_loss,
        "dev_loss": entry.dev_loss,
    }
    try:
        record = read_json(library.folder(entry) / "record.json")
    except ArtifactError:
        return facts  # adapters of other trainers have none
    return facts | {key: record[key] for key in ("n_steps", "n_tokens", "dev_loss_base") if key in record}
