"""One stage: skip it if its folder is finished and unchanged, else build it and write the manifest last.

The key of a stage is the digest of its name, its settings, the digests of its inputs and the seed. An atomic stage is
built under a temporary name and renamed; a resumable one works in its folder, piece by piece, each piece atomic.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tclora
from tclora.artifacts import (
    MANIFEST_NAME,
    Manifest,
    digest_of,
    file_digests,
    is_complete,
    machine_facts,
    read_manifest,
    remove_partials,
    staged_folder,
    version_facts,
    write_manifest,
)
from tclora.pipeline.progress import Progress

__all__ = ["Stage", "inputs_digest", "run_stage"]

# Pieces of a resumable stage that are not its results.
SCRATCH = ("cache", "work")


@dataclass(frozen=True)
class Stage:
    """What a stage is called, where it lives, and all that its result depends on."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    seed: int
    resumable: bool = False

    @property
    def key(self) -> str:
        """The digest of everything the result depends on."""
        return digest_of(
            {
                "stage": self.name,
                "config": dict(self.config),
                "inputs": dict(self.inputs),
                "seed": self.seed,
                "tclora": tclora.__version__,
            }
        )


def run_stage(stage: Stage, build: Callable[[Path], None], progress: Progress) -> Manifest:
    """Bring the stage's folder to completion and return its manifest.

    `build` fills the folder it is given. A finished and unchanged folder is left untouched, to the byte.
    """
    remove_partials(stage.folder)
    if is_complete(stage.folder, stage.key):
        manifest = _manifest_of(stage)
        progress.end(stage.name, wall_s=manifest.wall_s, skipped=True)
        return manifest
    progress.begin(stage.name)
    start = time.monotonic()
    if stage.resumable:
        _reopen(stage.folder)
        build(stage.folder)
        _finish(stage, stage.folder, start)
    else:
        with staged_folder(stage.folder, overwrite=True) as staging:
            build(staging)
            _finish(stage, staging, start)
    manifest = _manifest_of(stage)
    progress.end(stage.name, wall_s=manifest.wall_s, skipped=False)
    return manifest


def inputs_digest(manifest: Manifest) -> str:
    """The digest of a finished stage's files, as the input of the next."""
    return digest_of(manifest.outputs)


def _reopen(folder: Path) -> None:
    """Mark a resumable folder as unfinished before anything in it changes."""
    if folder.is_file():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    # The run's lock is held, so what a killed writer left belongs to nobody.
    for left in list(folder.rglob(".*.partial")):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _finish(stage: Stage, folder: Path, start: float) -> None:
    write_manifest(
        folder,
        Manifest(
            stage=stage.name,
            key=stage.key,
            config=dict(stage.config),
            inputs=dict(stage.inputs),
            outputs=file_digests(folder, skip=SCRATCH),
            seed=stage.seed,
            wall_s=round(time.monotonic() - start, 3),
            versions=version_facts(),
            machine=machine_facts(),
        ),
    )


def _manifest_of(stage: Stage) -> Manifest:
    manifest = read_manifest(stage.folder)
    assert manifest is not None  # just written, or just verified
    return manifest
