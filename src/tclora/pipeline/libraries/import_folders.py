"""Adapter folders, of whatever trainer, become a library.

In: PEFT folders (`NAME=FOLDER` to name one), or an export of `tclora export-jobs` with its adapters trained. Out: a
library folder with the two files of each, byte for byte, and, where the run's clusters are named, its clustering and
encoder, so that it can be looked at and extended. It appears whole or not at all. Refused: whatever the merger would
refuse, one name or one folder twice, an export whose adapters are not all there, names that are no cluster's.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tclora.adapters import Adapter, check_mergeable, check_same_base, inspect_adapter, read_adapter
from tclora.artifacts import folder_lock, is_free, read_json, read_manifest, sha256_file, staged_folder
from tclora.errors import AdapterError, ArtifactError, ConfigError, OutputExistsError
from tclora.pipeline.exports.record import read_export
from tclora.pipeline.libraries.clusters import copy_clusters
from tclora.pipeline.libraries.edit import check_name
from tclora.pipeline.libraries.index import INDEX_NAME, Library, LibraryEntry, LibraryIndex, open_library, write_index
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.sources import refuse_twice
from tclora.pipeline.stages.trainer_losses import losses_of
from tclora.records import ClusterRecord, from_json

__all__ = ["ImportRequest", "import_library"]

_FILES = ("adapter_config.json", "adapter_model.safetensors")
_CLUSTER = re.compile(r"cluster-(\d+)")


@dataclass(frozen=True)
class ImportRequest:
    """What `tclora library import` was asked for."""

    sources: tuple[str, ...]
    out: str
    clusters: str | None = None
    """A run's `cluster` folder."""
    add: bool = False
    """Add to the library at `out` instead of making one."""


@dataclass(frozen=True)
class _Found:
    """One adapter to import."""

    name: str
    folder: Path
    cluster: int | None
    adapter: Adapter


def import_library(request: ImportRequest, progress: Progress | None = None) -> Library:
    """Check the adapters and copy them into a library.

    Raises:
        TcLoraError: an adapter cannot be merged, or the request does not fit together; nothing is written then.
    """
    told = progress or Silent()
    out = Path(request.out).expanduser()
    _check_place(out, request)
    named, clusters = _named_sources(request, told)
    refuse_twice([str(folder) for _, folder in named], do="name it once")
    old = open_library(out) if request.add else None
    if old is not None and clusters is None and old.index.cluster is not None:
        record_folder = old.root / old.index.cluster
    else:
        record_folder = clusters
    record = None if record_folder is None else _cluster_record(record_folder)
    found = _read_all(named, record, old, told)
    return _make(out, found, clusters, told) if old is None else _add(old, found, told)


def _check_place(out: Path, request: ImportRequest) -> None:
    if request.add and not (out / INDEX_NAME).is_file():
        raise ConfigError("there is no library to add to", where=out, do="leave --add out to make one")
    if request.add and request.clusters is not None:
        raise ConfigError("a library's clusters are those it was made with", where="--clusters", do="leave it out")
    if not is_free(out) and not request.add:
        raise OutputExistsError("the output exists", where=out, do="choose another place, or give --add")


def _named_sources(request: ImportRequest, told: Progress) -> tuple[list[tuple[str, Path]], Path | None]:
    """The adapters by name, and the clusters they belong to: those of the request, or of the export's run."""
    clusters = None if request.clusters is None else Path(request.clusters).expanduser()
    named: list[tuple[str, Path]] = []
    for source in request.sources:
        folder = Path(source).expanduser()
        export = read_export(folder) if folder.is_dir() else None
        if export is None:
            named.append(_split(source))
            continue
        named += _of_export(folder, export)
        run = Path(str(export.get("run", ""))) / "cluster"
        if clusters is None and not request.add and read_manifest(run) is not None:
            told.note(f"the clusters are those of the export's run: {run}")
            clusters = run
    return named, clusters


def _split(source: str) -> tuple[str, Path]:
    name, found, folder = source.partition("=")
    # A path that exists is a path, whatever signs it has.
    if found and not Path(source).expanduser().exists():
        return name, Path(folder).expanduser()
    path = Path(source).expanduser()
    return (path.name or path.resolve().name), path


def _of_export(folder: Path, export: dict) -> list[tuple[str, Path]]:
    jobs = [(str(job["name"]), folder / str(job["folder"])) for job in export["adapters"]]
    missing = [name for name, path in jobs if not all((path / file).is_file() for file in _FILES)]
    if missing:
        raise AdapterError(
            "the export's training is not finished",
            where=folder,
            found=f"no adapter for {', '.join(missing)}",
            expected="adapter_config.json and adapter_model.safetensors in " + str(folder / "adapters" / missing[0]),
            do="run run_all.sh there again, or name the folders you want one by one",
        )
    return jobs


def _cluster_record(folder: Path) -> ClusterRecord:
    if read_manifest(folder) is None and not (folder / "centroids.npy").is_file():
        raise ArtifactError("the clusters cannot be read", where=folder, expected="a run's cluster folder")
    return from_json(ClusterRecord, read_json(folder / "record.json"))


def _read_all(
    named: Sequence[tuple[str, Path]], record: ClusterRecord | None, old: Library | None, told: Progress
) -> list[_Found]:
    taken = [entry.name for entry in old.index.adapters] if old else []
    found: list[_Found] = []
    for done, (name, folder) in enumerate(named, start=1):
        check_name(name, taken=taken + [other.name for other in found])
        summary = inspect_adapter(folder)  # reads every tensor: NaN is found here and not in a merge
        if summary.refusals:
            raise AdapterError(
                f"the adapter '{name}' cannot be merged",
                where=folder,
                found="; ".join(line.splitlines()[0] for line in summary.refusals),
                do=f"tclora check {folder} says more",
            )
        found.append(_Found(name, folder, _cluster_index(name, record), read_adapter(folder, name=name)))
        told.step("import", done, len(named))
    before = [read_adapter(old.folder(entry), name=entry.name) for entry in old.index.adapters] if old else []
    adapters = [*before, *(one.adapter for one in found)]
    check_mergeable(adapters)
    for warning in check_same_base(adapters):
        told.note(warning)
    return found


def _cluster_index(name: str, record: ClusterRecord | None) -> int | None:
    if record is None:
        return None
    match = _CLUSTER.fullmatch(name)
    index = int(match[1]) if match else None
    if index is None or index not in {cluster.index for cluster in record.clusters}:
        raise ConfigError(
            f"it is not known which cluster '{name}' belongs to",
            expected=f"a name from cluster-0 to cluster-{record.n_clusters - 1}",
            do="name it as CLUSTER=FOLDER, e.g. cluster-3=out/adapter; tclora library rename gives it another name",
        )
    return index


def _make(out: Path, found: Sequence[_Found], clusters: Path | None, told: Progress) -> Library:
    with staged_folder(out) as staging:
        index = LibraryIndex(format=1, adapters=())
        if clusters is not None:
            index = copy_clusters(clusters, staging)
        sizes = _sizes(staging, index)
        entries = tuple(_copy(staging, one, sizes) for one in found)
        library = Library(staging, replace(index, adapters=entries))
        write_index(library)
    _tell_gaps(library, sizes, told)
    return Library(out, library.index)


def _add(old: Library, found: Sequence[_Found], told: Progress) -> Library:
    with folder_lock(old.root):
        library = open_library(old.root)
        sizes = _sizes(library.root, library.index)
        entries = tuple(_copy(library.root, one, sizes) for one in found)
        _refuse_shared(library, entries)
        library = replace(library, index=replace(library.index, adapters=library.index.adapters + entries))
        write_index(library)
    return library


def _refuse_shared(library: Library, entries: Sequence[LibraryEntry]) -> None:
    owners = {entry.cluster: entry.name for entry in library.index.adapters if entry.cluster is not None}
    for entry in entries:
        if entry.cluster in owners:
            shutil.rmtree(library.folder(entry), ignore_errors=True)
            raise ConfigError(
                "a cluster has one adapter",
                found=f"cluster {entry.cluster} belongs to '{owners[entry.cluster]}'",
                do=f"tclora library remove {library.root} {owners[entry.cluster]} first",
            )


def _copy(root: Path, one: _Found, sizes: dict[int, tuple[int, int]]) -> LibraryEntry:
    target = root / "library" / one.name
    with staged_folder(target, overwrite=True) as staging:
        for file in _FILES:
            shutil.copyfile(one.folder / file, staging / file)
    train_loss, dev_loss = losses_of(one.folder)
    n_train, n_dev = sizes.get(-1 if one.cluster is None else one.cluster, (None, 0))
    file = None if one.cluster is None else f"cluster/cluster-{one.cluster}"
    sample = f"samples/cluster-{one.cluster}.npy"
    return LibraryEntry(
        name=one.name,
        folder=f"library/{one.name}",
        sha256=sha256_file(target / "adapter_model.safetensors"),
        cluster=one.cluster,
        n_examples=n_train,
        train_loss=train_loss,
        dev_loss=dev_loss,
        train_file=f"{file}.train.jsonl" if file else None,
        dev_file=f"{file}.dev.jsonl" if file and n_dev else None,
        sample=sample if (root / sample).is_file() else None,
        source=f"imported from {one.folder}",
    )


def _sizes(root: Path, index: LibraryIndex) -> dict[int, tuple[int, int]]:
    if index.cluster is None:
        return {}
    record = from_json(ClusterRecord, read_json(root / index.cluster / "record.json"))
    return {cluster.index: (cluster.n_train, cluster.n_dev) for cluster in record.clusters}


def _tell_gaps(library: Library, sizes: dict[int, tuple[int, int]], told: Progress) -> None:
    without = sorted(set(sizes) - {entry.cluster for entry in library.index.adapters})
    if without:
        names = ", ".join(f"cluster-{index}" for index in without)
        told.note(f"no adapter for {names}: new examples will go to the clusters that have one")
