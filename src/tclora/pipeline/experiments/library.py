"""One library of an experiment at one seed: trained where it is not, opened where it is.

In: a library's settings and a seed. Out: an `OpenLibrary`: its adapters and its controls', its rows in folds, and a
scorer on a base that all libraries of the same base share. A folder that another process works in is waited for, for
experiments share their libraries. Refused: what the run refuses.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tclora.adapters import Adapter, read_adapter
from tclora.artifacts import read_manifest
from tclora.config import BaseModelConfig, RunConfig, load_config
from tclora.config.experiment_merges import LibraryConfig, MergesSettings
from tclora.errors import FolderInUseError
from tclora.evaluation.rows import RowSet
from tclora.merging import merge_adapters
from tclora.models import Base
from tclora.pipeline.experiments.losses import Scorer, answers_set
from tclora.pipeline.experiments.rows import REPORT, Fold, folds_of
from tclora.pipeline.layout import MULTI_TASK, RANDOM_CLUSTERS, RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.cluster import read_cluster_record
from tclora.pipeline.stages.control import control_groups
from tclora.pipeline.stages.train import adapter_names

__all__ = ["OpenLibrary", "is_trained", "library_config", "open_library"]

_LOOK_AGAIN_S = 1.0
"""Between two looks at a folder that another process works in."""


@dataclass(frozen=True)
class OpenLibrary:
    """A finished library and everything that is asked of it."""

    name: str
    seed: int
    config: RunConfig
    run: RunFolder
    scorer: Scorer
    adapters: tuple[Adapter, ...]
    random: tuple[Adapter, ...]
    """Those of random clusters, where the run has them."""
    sizes: tuple[int, ...]
    """Training rows of each cluster."""
    folds: Mapping[str, Fold]
    answers: RowSet | None

    @cached_property
    def mean(self) -> Adapter:
        """The plain mean of the adapters, which norms and angles are measured against."""
        return merge_adapters(self.adapters, "mean", workers=1).adapter

    def of(self, whose: str) -> tuple[Adapter, ...]:
        """The adapters of the library, or of its control."""
        return self.adapters if whose == "library" else self.random

    def multi_task(self) -> Adapter:
        """The one adapter trained on all data."""
        return read_adapter(self.run.library / MULTI_TASK)


def library_config(settings: MergesSettings, name: str, seed: int) -> RunConfig:
    """The run of a library at a seed: its file, what the experiment sets, the seed and the folder.

    Raises:
        ConfigError: as for a run.
    """
    library: LibraryConfig = settings.libraries[name]
    words = [f"{key}={json.dumps(value)}" for key, value in library.set.items()]
    words += [f"seed={seed}", f"output={json.dumps(library.output.replace('{seed}', str(seed)))}"]
    return load_config(Path(settings.folder) / library.run, words)


def is_trained(config: RunConfig) -> bool:
    """Whether the library's folder is finished; the run itself looks whether it is of these settings."""
    run = RunFolder(Path(config.output).expanduser())
    parts = [run.library, *([run.controls] if config.train.controls else [])]
    return all(read_manifest(folder) is not None for folder in parts)


def open_library(
    settings: MergesSettings,
    name: str,
    seed: int,
    base_of: Callable[[BaseModelConfig], Base],
    progress: Progress,
) -> OpenLibrary:
    """Bring the library to completion and read it."""
    config = library_config(settings, name, seed)
    _finish(config, progress)
    run = RunFolder(Path(config.output).expanduser())
    base = base_of(config.base)
    groups = control_groups(config, run)
    folds = folds_of(config, run, base, groups, settings.rows)
    random = [one for one in groups if one.control == RANDOM_CLUSTERS]
    asked = settings.exact_match
    cache = Path(settings.cache).expanduser() if settings.cache else Path(settings.output).expanduser() / "losses"
    return OpenLibrary(
        name=name,
        seed=seed,
        config=config,
        run=run,
        scorer=Scorer(base, cache, settings.batch_size),
        adapters=tuple(read_adapter(run.library / adapter) for adapter in adapter_names(run)),
        random=tuple(read_adapter(run.controls / one.control / adapter) for one in random for adapter in one.names),
        sizes=tuple(cluster.n_train for cluster in read_cluster_record(run).clusters),
        folds=folds,
        answers=answers_set(base, folds[REPORT], asked.rows, asked.max_new_tokens) if asked.rows else None,
    )


def _finish(config: RunConfig, progress: Progress) -> None:
    told = False
    while True:
        try:
            run_pipeline(config, until="train", progress=progress)
        except FolderInUseError as error:
            if not told:
                progress.note(f"{error.where} is in use by {error.found}: waiting for it")
            told = True
            time.sleep(_LOOK_AGAIN_S)
        else:
            return
