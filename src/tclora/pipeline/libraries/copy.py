"""A library as a folder of its own, with what its index names at present and nothing else.

In: a library and a new place. Out: the copy, which knows what it was copied from, so that an interrupted `tclora
extend -o` goes on in it. It appears whole or not at all. Refused: a place that holds anything else.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from tclora.artifacts import is_free, staged_folder
from tclora.errors import OutputExistsError
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.libraries.index import INDEX_NAME, Library, LibraryEntry, LibraryIndex, open_library, write_index
from tclora.pipeline.libraries.samples import run_samples, save_sample

__all__ = ["check_copy", "copy_library"]


def copy_library(library: Library, out: Path) -> Library:
    """Copy the library to `out`; a copy of the same library that is there already is returned as it is.

    Raises:
        OutputExistsError: something else is there.
    """
    check_copy(library, out)
    if not is_free(out):
        return open_library(out)
    with staged_folder(out) as staging:
        index = library.index
        adapters = tuple(_copy_entry(library, entry, staging) for entry in index.adapters)
        copy = LibraryIndex(
            format=index.format,
            adapters=_with_samples(library, adapters, staging),
            cluster=_copy_clusters(library, staging),
            encoder=_copy_tree(library, index.encoder, "encode/encoder", staging),
            config=_copy_file(library, index.config, "config.yaml", staging),
            merge=_copy_tree(library, index.merge, "merge", staging),
            base_digest=index.base_digest,
            origin=index.digest,
        )
        write_index(Library(staging, copy))
    return open_library(out)


def check_copy(library: Library, out: Path) -> None:
    """Refuse a place that holds anything but a copy of the library.

    Raises:
        OutputExistsError: something else is there.
    """
    if is_free(out):
        return
    origin = open_library(out).index.origin if (out / INDEX_NAME).is_file() else None
    if origin != library.index.digest:
        raise OutputExistsError(
            "the output exists and is no copy of this library",
            where=out,
            do="choose another place, or extend the library there: leave -o out",
        )


def _copy_entry(library: Library, entry: LibraryEntry, out: Path) -> LibraryEntry:
    folder = f"library/{entry.name}"
    shutil.copytree(library.folder(entry), out / folder)
    name = f"cluster/cluster-{entry.cluster}"
    return replace(
        entry,
        folder=folder,
        train_file=_copy_file(library, entry.train_file, f"{name}.train.jsonl", out),
        dev_file=_copy_file(library, entry.dev_file, f"{name}.dev.jsonl", out),
        sample=_copy_file(library, entry.sample, f"samples/cluster-{entry.cluster}.npy", out),
    )


def _with_samples(library: Library, entries: tuple[LibraryEntry, ...], out: Path) -> tuple[LibraryEntry, ...]:
    """The copy has no embeddings of the run, so its samples are taken before it is left behind."""
    if all(entry.sample or entry.cluster is None for entry in entries):
        return entries
    found = run_samples(RunFolder(library.root))
    made = []
    for entry in entries:
        if entry.sample is None and entry.cluster in found:
            path = f"samples/cluster-{entry.cluster}.npy"
            save_sample(out / path, found[entry.cluster])
            made.append(replace(entry, sample=path))
        else:
            made.append(entry)
    return tuple(made)


def _copy_clusters(library: Library, out: Path) -> str | None:
    if library.index.cluster is None:
        return None
    for name in ("centroids.npy", "clusters.json", "record.json"):
        _copy_file(library, f"{library.index.cluster}/{name}", f"cluster/{name}", out)
    return "cluster"


def _copy_tree(library: Library, path: str | None, target: str, out: Path) -> str | None:
    if path is None or not (library.root / path).is_dir():
        return None
    shutil.copytree(library.root / path, out / target)
    return target


def _copy_file(library: Library, path: str | None, target: str, out: Path) -> str | None:
    if path is None or not (library.root / path).is_file():
        return None
    (out / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library.root / path, out / target)
    return target
