"""The front door of the analysis: PEFT folders or Hub ids in, figures out, and a folder of tables where asked for.

No base model is needed. Everything that can be refused is refused before any work, and the output appears whole or not
at all. Adapters are put in the order of their weights, so the order they are named in changes no byte.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tclora.adapters import Adapter, check_mergeable, check_same_base, map_in_threads, read_adapter
from tclora.analysis import (
    ANALYSIS_FILES,
    Analysis,
    AnalysisSettings,
    Measured,
    analyse_measured,
    fill_analysis_folder,
    measure_batch,
)
from tclora.artifacts import is_free, refuse_taken, staged_folder
from tclora.errors import OutputExistsError
from tclora.merging import ModuleGroup, plan_merge, resolve_workers, stack_modules
from tclora.merging.plan import Room
from tclora.pipeline.merges.base_check import check_base
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.sources import refuse_twice

__all__ = ["AnalyseRequest", "AnalyseResult", "analyse_folders"]


@dataclass(frozen=True)
class AnalyseRequest:
    """What `tclora analyse` was asked for."""

    adapters: tuple[str, ...]
    out: str | None = None
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    base: str | None = None
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True)
class AnalyseResult:
    """The analysis, where it was written, and how long it took."""

    analysis: Analysis
    out: str | None
    wall_s: float


def analyse_folders(request: AnalyseRequest, progress: Progress | None = None) -> AnalyseResult:
    """Analyze adapter folders, and write the tables if the request names an output.

    Raises:
        TcLoraError: the request is wrong, an adapter is broken or unsupported, or the output exists; nothing is
            written then.
    """
    told, start = progress or Silent(), time.monotonic()
    _check_output(request)
    adapters, notes = _read(request, told)
    told.begin("analyse")
    # In one order, whatever order the adapters were named in.
    analysis = replace(_analyse(adapters, request.settings, told), notes=tuple(sorted(notes)))
    if request.out is not None:
        again = partial(_check_output, request)
        with staged_folder(Path(request.out), overwrite=request.overwrite, refuse=again) as staging:
            fill_analysis_folder(analysis, staging, command=request.command)
    wall_s = time.monotonic() - start
    told.end("analyse", wall_s=wall_s, skipped=False)
    return AnalyseResult(analysis, request.out, wall_s)


def _analyse(adapters: Sequence[Adapter], settings: AnalysisSettings, told: Progress) -> Analysis:
    plan = plan_merge(adapters)
    names = _labels(plan.adapters)

    rooms = threading.local()

    def measure(group: ModuleGroup) -> Measured:
        rooms.own = rooms.__dict__.get("own") or Room()
        return measure_batch(stack_modules(plan.adapters, group, rooms.own), names, settings)

    workers = resolve_workers(None, len(plan.groups))
    return analyse_measured(
        map_in_threads(measure, plan.groups, workers),
        names,
        settings,
        on_progress=lambda done: told.step("analyse", done, plan.n_modules),
    )


def _read(request: AnalyseRequest, told: Progress) -> tuple[list[Adapter], list[str]]:
    """The adapters, and what is to be said of them and of the base."""
    refuse_twice(request.adapters, do="name it once")
    adapters = [read_adapter(source) for source in request.adapters]
    check_mergeable(adapters)
    notes = [*check_same_base(adapters), *check_base(adapters, request.base)]
    for note in notes:
        told.note(note)
    return adapters, notes


def _labels(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """The adapters' names; where two share one, what the user typed for each."""
    names = [adapter.name for adapter in adapters]
    return tuple(
        adapter.source.id if adapter.source and names.count(adapter.name) > 1 else adapter.name for adapter in adapters
    )


def _check_output(request: AnalyseRequest) -> None:
    """Refuse a place that is taken; with `overwrite`, one that holds anything but an analysis."""
    if request.out is None:
        return
    out = Path(request.out)
    refuse_taken(out, overwrite=request.overwrite)
    if is_free(out):
        return
    holds = {path.name for path in out.iterdir()} if out.is_dir() and not out.is_symlink() else None
    if holds is None or not holds <= set(ANALYSIS_FILES):
        raise OutputExistsError(
            "the output exists and is not an analysis alone, so it is not replaced",
            where=out,
            found=", ".join(sorted((holds or set()) - set(ANALYSIS_FILES))[:3]) or "no plain folder",
            expected=f"a folder with no files but {', '.join(ANALYSIS_FILES)}",
            do="choose another place, or remove it yourself",
        )
