"""Every contestant of one library at one seed: its scale chosen on `choose`, its losses taken on the other folds.

In: an open library and the experiment's settings. Out: a `MeasuredLibrary`: for each contestant its losses row by row,
and the plain facts of its adapter. A contestant whose merge fails is left out with its reason; the others go on. What
is wrong with the request is refused before this, by `check_merges`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tclora.config.experiment_merges import ContestantConfig, MergesSettings
from tclora.errors import TcLoraError
from tclora.pipeline.experiments.adapter_arithmetic import adapter_norm, cosine
from tclora.pipeline.experiments.contestants import Candidate, Entrants
from tclora.pipeline.experiments.library import OpenLibrary
from tclora.pipeline.experiments.losses import Losses
from tclora.pipeline.experiments.quality import quality_row
from tclora.pipeline.experiments.rows import CHOOSE, HELD_OUT, REPORT, Fold, rows_digest
from tclora.pipeline.experiments.scale_search import best_scale, search_scale
from tclora.pipeline.experiments.spectra import spectrum_rows
from tclora.pipeline.progress import Progress
from tclora.records.experiment import LeftOut, QualityRow, SpectrumRow

__all__ = ["Measured", "MeasuredLibrary", "measure_library"]


@dataclass(frozen=True)
class Measured:
    """One contestant: its scale, what it scored, row by row, and what its adapter is like."""

    scale: float
    at_end: bool
    path: Mapping[float, float]
    losses: Mapping[str, Losses]
    right: tuple[bool, ...]
    rank: int | None
    norm_to_mean: float | None
    cosine_to_mean: float | None
    relative_error: float | None
    cut_error: float | None
    source: str | None


@dataclass(frozen=True)
class MeasuredLibrary:
    """One library at one seed. `groups` names each `report` row's group; `rows` are digests of the folds' examples."""

    name: str
    seed: int
    base: str
    n_parameters: int
    n_adapters: int
    n_rows: Mapping[str, int]
    rows: Mapping[str, str]
    groups: tuple[str, ...]
    contestants: Mapping[str, Measured]
    left_out: tuple[LeftOut, ...]
    spectra: tuple[SpectrumRow, ...]
    quality: QualityRow | None


def measure_library(library: OpenLibrary, settings: MergesSettings, work: Path, progress: Progress) -> MeasuredLibrary:
    """Measure all contestants of a library; losses that are on disk are not computed again."""
    start, label = time.monotonic(), f"{library.name} seed {library.seed}"
    progress.begin(label)
    given = settings.in_library(library.name)
    entrants = Entrants(library, given, work, progress)
    found: dict[str, Measured] = {}
    left_out: list[LeftOut] = []
    for place, (name, one) in enumerate(given.items()):
        progress.step(label, place, len(given))
        try:
            found[name] = _measured(entrants[name], one, settings)
        except TcLoraError as error:
            left_out.append(LeftOut(library.name, library.seed, name, " ".join(str(error).split())))
            progress.note(f"{label}: {name} is left out: {left_out[-1].why}")
            if len(left_out) == len(given):
                raise
    progress.step(label, len(given), len(given))
    progress.end(label, wall_s=round(time.monotonic() - start, 1), skipped=False)
    losses = {name: measured.losses[REPORT] for name, measured in found.items()}
    base = library.scorer.base
    return MeasuredLibrary(
        name=library.name,
        seed=library.seed,
        base=base.name,
        n_parameters=sum(parameter.numel() for parameter in base.model.parameters()),
        n_adapters=len(library.adapters),
        n_rows={name: len(fold) for name, fold in library.folds.items()},
        rows={name: rows_digest(fold) for name, fold in library.folds.items()},
        groups=_groups(library.folds[REPORT], settings.by),
        contestants=found,
        left_out=tuple(left_out),
        spectra=spectrum_rows(library, losses) if settings.spectra else (),
        quality=quality_row(library, losses) if settings.quality else None,
    )


def _measured(candidate: Candidate, one: ContestantConfig, settings: MergesSettings) -> Measured:
    path, scale, at_end = _scale(candidate, one, settings)
    folds = [fold for fold in (REPORT, HELD_OUT) if fold in candidate.library.folds]
    single = candidate.single
    return Measured(
        scale=scale,
        at_end=at_end,
        path=path,
        losses={fold: candidate.losses(fold, scale) for fold in folds},
        right=tuple(candidate.right(scale)),
        rank=candidate.rank,
        norm_to_mean=None if single is None else scale * adapter_norm(single) / adapter_norm(candidate.library.mean),
        cosine_to_mean=None if single is None else cosine(single, candidate.library.mean),
        relative_error=candidate.relative_error,
        cut_error=candidate.cut_error,
        source=candidate.source,
    )


def _scale(
    candidate: Candidate, one: ContestantConfig, settings: MergesSettings
) -> tuple[dict[float, float], float, bool]:
    """Losses by scale on the rows of `choose`, the scale to take, and whether the search ended at it."""
    given, scales = one.chosen_scale, settings.scales
    if given is not None:
        return {}, given, False
    path = search_scale(
        lambda scale: candidate.losses(CHOOSE, scale).mean,
        scales.grid,
        steps=scales.steps,
        every=scales.walk == "every",
    )
    return path, *best_scale(path)


def _groups(fold: Fold, by: str) -> tuple[str, ...]:
    if by == "none":
        return ()
    if by == "cluster":
        return tuple(f"cluster-{index}" for index in fold.rows.clusters)
    names = [example.family if by == "family" else example.task for example in fold.examples]
    return tuple(name or "no task" for name in names)
