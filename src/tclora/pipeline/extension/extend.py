"""A library grows: new examples go to its clusters or open new ones, and only what changed is trained and merged.

In: a library with clusters, encoder and settings (a run folder, or an import with `--clusters`), and files of new
examples. Out: `extensions/ID` in the library (or in a copy of it), and an index that names it. The index is replaced
last and in one step: killed before, the old library is whole, and the same command goes on; after, the new one is
whole. What no new example reached is neither trained nor touched. Refused: a library without clusters or encoder,
another base than it was trained on, merge weights that do not fit the new number of adapters.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tclora.artifacts import digest_of, folder_lock, sha256_file
from tclora.config import RunConfig
from tclora.pipeline.extension.data import NewData, read_new
from tclora.pipeline.extension.decide import decide, read_samples
from tclora.pipeline.extension.record import ExtendRecord
from tclora.pipeline.extension.request import ExtendRequest, check_extension, check_merge_weights, settings_of
from tclora.pipeline.extension.stages import ExtendJob, assign_stage, merge_stage, train_stage
from tclora.pipeline.libraries.copy import check_copy, copy_library
from tclora.pipeline.libraries.index import Extension, Library, LibraryEntry, open_library, write_index
from tclora.pipeline.progress import Progress, Silent
from tclora.records import TrainRecord

__all__ = ["ExtendRequest", "extend_library", "plan_extension"]


def extend_library(request: ExtendRequest, progress: Progress | None = None) -> ExtendRecord:
    """Extend a library by new examples.

    Raises:
        TcLoraError: the request, the data or the library is wrong; the library is then what it was.
    """
    told = progress or Silent()
    source = open_library(request.library)
    config = settings_of(source, request)
    check_extension(source, config, request)
    library = source if request.out is None else copy_library(source, Path(request.out).expanduser())
    if config.base.threads:
        torch.set_num_threads(config.base.threads)
    with folder_lock(library.root):
        return _extend(open_library(library.root), config, request, told)


def plan_extension(request: ExtendRequest, progress: Progress | None = None) -> ExtendRecord:
    """Where the examples would go; nothing is written and nothing trained."""
    library = open_library(request.library)
    config = settings_of(library, request)
    check_extension(library, config, request)
    if request.out is not None:
        check_copy(library, Path(request.out).expanduser())
    data = read_new(request.data, library, config)
    if not data.examples:
        return _nothing(data, request)
    _, _, record = decide(library, config, request.assign, data, read_samples(library, config), "")
    _tell(record, progress or Silent())
    return record


def _extend(library: Library, config: RunConfig, request: ExtendRequest, told: Progress) -> ExtendRecord:
    data = read_new(request.data, library, config)
    waiting = any(entry.n_waiting for entry in library.index.adapters)
    if not data.examples and (request.only_new or not waiting):
        return _nothing(data, request)
    job = _job(library, config, request, data)
    samples = read_samples(library, config)
    settings = request.assign
    decided = assign_stage(job, data, samples, lambda: decide(library, config, settings, data, samples, job.id), told)
    check_merge_weights(config, len(library.index.adapters) + len(decided.opened))
    entries = _entries(job, decided)
    chosen = [entry for entry in entries if entry.name in decided.opened or (entry.n_waiting and not request.only_new)]
    if chosen:
        trained = train_stage(job, chosen, told)
        entries = [_trained(job, entry, trained.get(entry.name)) for entry in entries]
        merge_stage(job, entries, told)
    record = replace(
        decided,
        retrained=tuple(entry.name for entry in chosen if entry.name not in decided.opened),
        waiting={entry.name: entry.n_waiting for entry in entries if entry.n_waiting},
        merged=tuple(merge.label for merge in config.merge) if chosen else (),
    )
    _commit(job, entries, record, data)
    _tell(record, told)
    return record


def _job(library: Library, config: RunConfig, request: ExtendRequest, data: NewData) -> ExtendJob:
    assign = request.assign
    settings = {
        "threshold": assign.threshold,
        "min_size": str(assign.min_size),
        "new_clusters": str(assign.new_clusters),
        "only_new": str(request.only_new),
        "dev_fraction": str(config.data.dev_fraction),
    }
    train = config.train.model_dump(mode="json", exclude={"checkpoint_every", "multi_task", "controls"})
    merges = [merge.model_dump(mode="json") for merge in config.merge]
    facts = [library.index.digest, data.digest, settings, train, merges, config.seed]
    return ExtendJob(library, config, digest_of(facts)[:12], settings, data.digest)


def _entries(job: ExtendJob, decided: ExtendRecord) -> list[LibraryEntry]:
    """The index's entries with their new files, and one for each new cluster."""
    shares = {share.name: share for share in decided.shares if share.n_train or share.n_dev}
    entries = []
    for entry in job.library.index.adapters:
        share = shares.get(entry.name)
        entries.append(entry if share is None else _with_files(job, entry, share.cluster, share.n_train))
    for share in decided.shares:
        if share.is_new:
            fresh = LibraryEntry(share.name, "", "", cluster=share.cluster, source=f"extension {job.id}")
            entries.append(_with_files(job, fresh, share.cluster, share.n_train))
    return entries


def _with_files(job: ExtendJob, entry: LibraryEntry, index: int, n_train: int) -> LibraryEntry:
    place = f"{job.place}/cluster"
    has_dev = (job.library.root / place / f"cluster-{index}.dev.jsonl").is_file()
    return replace(
        entry,
        train_file=f"{place}/cluster-{index}.train.jsonl",
        dev_file=f"{place}/cluster-{index}.dev.jsonl" if has_dev else None,
        sample=f"{place}/samples/cluster-{index}.npy",
        n_waiting=entry.n_waiting + n_train,
    )


def _trained(job: ExtendJob, entry: LibraryEntry, record: TrainRecord | None) -> LibraryEntry:
    if record is None:
        return entry
    folder = f"{job.place}/library/{entry.name}"
    return replace(
        entry,
        folder=folder,
        sha256=sha256_file(job.library.root / folder / "adapter_model.safetensors"),
        n_examples=record.n_examples,
        n_waiting=0,
        train_loss=record.train_loss,
        dev_loss=record.dev_loss,
        source=f"extension {job.id}",
    )


def _commit(job: ExtendJob, entries: Sequence[LibraryEntry], record: ExtendRecord, data: NewData) -> None:
    old = job.library.index
    extension = Extension(
        id=job.id,
        folder=job.place,
        data_digest=data.digest,
        settings=job.settings,
        n_given=record.n_given,
        n_known=record.n_known,
        n_outliers=record.n_far,
        assigned={share.name: share.n_train for share in record.shares if share.n_train},
        opened=record.opened,
        retrained=record.retrained,
        notes=record.notes,
    )
    index = replace(
        old,
        adapters=tuple(entries),
        cluster=f"{job.place}/cluster",
        merge=f"{job.place}/merge" if record.merged else old.merge,
        extensions=(*old.extensions, extension),
    )
    write_index(replace(job.library, index=index))
    # Of extensions that were begun and never finished; they were made from a library that is no more.
    kept = {done.id for done in index.extensions}
    for folder in (job.library.root / "extensions").iterdir():
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _nothing(data: NewData, request: ExtendRequest) -> ExtendRecord:
    return ExtendRecord("", True, data.n_given, data.n_known, 0, 0, 0, request.assign.threshold, 0.0)


def _tell(record: ExtendRecord, told: Progress) -> None:
    for note in record.notes:
        told.note(note)
    for name, count in (record.waiting or {}).items():
        told.note(f"{count} examples wait for {name} to be trained: extend again without --only-new")
