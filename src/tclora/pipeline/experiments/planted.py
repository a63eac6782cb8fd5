"""Experiments of kind `planted`: adapters made from known parts, so what a merge recovers is known exactly.

In: `PlantedSettings`. Out: the page. No base and no data are needed. Every world is kept as soon as it is measured. All
cells stand in `work/cells.csv` of the experiment's folder; the page has what they come to.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tclora.artifacts import write_bytes
from tclora.config.experiment_planted import PlantedSettings
from tclora.evaluation.seed_draws import Draws, draw_losses, holm
from tclora.pipeline.experiments.planted_measure import check_planted_merges, measure_world
from tclora.pipeline.experiments.planted_stability import check_stability, stability_figures
from tclora.pipeline.progress import Progress
from tclora.records.experiment import Contrast
from tclora.records.testbeds import PlantedCell, PlantedFigures, PlantedMarginal, PlantedRecord
from tclora.reporting.experiment_page import ExperimentPage
from tclora.reporting.planted_page import planted_page
from tclora.testbeds import TRUTHS

__all__ = ["plan_planted", "run_planted"]


def plan_planted(settings: PlantedSettings) -> dict[str, object]:
    """What would be done, for `--dry-run`."""
    check_planted_merges(settings)
    worlds = sum(len(settings.points(grid)) for grid in settings.grids)
    found: dict[str, object] = {
        "seeds": list(settings.seeds),
        "grids": [f"{name}: {len(settings.points(name))} worlds" for name in settings.grids],
        "contestants": list(settings.contestants),
        "ranks": list(settings.ranks),
        "merges": worlds * len(settings.seeds) * len(settings.contestants) * len(settings.ranks),
    }
    if settings.stability is not None:
        one = settings.stability
        check_stability(one)
        models = len(settings.seeds) * len(one.noise) * len(one.cp_ranks) * len(one.sweeps) * one.adapters.n_modules
        found["CP models"] = f"{models}, each from {one.n_starts + 2} starts"
    return found


def run_planted(settings: PlantedSettings, work: Path, command: str, progress: Progress) -> ExperimentPage:
    """Measure what is not measured yet, and make the page.

    Raises:
        ConfigError: a contestant or the planted adapters are not possible.
        TcLoraError: as a merge.
    """
    check_planted_merges(settings)
    if settings.stability is not None:
        check_stability(settings.stability)
    cells = _cells(settings, work / "work", progress)
    write_bytes(work / "work" / "cells.csv", _csv(cells).encode())
    record = PlantedRecord(
        name=settings.name,
        seeds=settings.seeds,
        n_worlds=sum(len(settings.points(grid)) for grid in settings.grids),
        figures=_figures(settings, cells),
        marginals=_marginals(settings, cells),
        stability=stability_figures(settings, work / "work", progress),
        settings=settings.model_dump(mode="json", exclude={"output", "page", "folder"}),
    )
    return planted_page(record, settings, TRUTHS, command=command)


def _cells(settings: PlantedSettings, work: Path, progress: Progress) -> list[PlantedCell]:
    wanted = [
        (grid, point, seed) for seed in settings.seeds for grid in settings.grids for point in settings.points(grid)
    ]
    cells: list[PlantedCell] = []
    for done, (grid, point, seed) in enumerate(wanted, start=1):
        cells += measure_world(settings, grid, point, seed, work)
        progress.step("planted worlds", done, len(wanted))
    return cells


def _csv(cells: Sequence[PlantedCell]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["grid", "point", "seed", "contestant", "rank", "truth", "error", "best_scale", "best_error"])
    for one in cells:
        point = " ".join(f"{key}={value}" for key, value in one.point.items())
        numbers = (f"{value:.6g}" for value in (one.error, one.best_scale, one.best_error))
        writer.writerow([one.grid, point, one.seed, one.contestant, one.rank, one.truth, *numbers])
    return text.getvalue()


def _figures(settings: PlantedSettings, cells: Sequence[PlantedCell]) -> tuple[PlantedFigures, ...]:
    found: list[PlantedFigures] = []
    names = list(settings.contestants)
    for rank in settings.ranks:
        for truth in TRUTHS:
            mine = [one for one in cells if one.rank == rank and one.truth == truth]
            if not mine:
                continue
            best, plain = (_draws(settings, mine, part) for part in (_best_error, _error))
            lesses = {rival: _contrasts(best, names, rival) for rival in settings.rivals}
            found += [
                PlantedFigures(
                    name,
                    rank,
                    truth,
                    plain.mean(k),
                    best.mean(k),
                    {rival: less[name] for rival, less in lesses.items() if name in less},
                )
                for k, name in enumerate(names)
            ]
    return tuple(found)


def _contrasts(draws: Draws, names: Sequence[str], rival: str) -> dict[str, Contrast]:
    """Each contestant less the rival, with Holm's correction over the contestants."""
    others = [name for name in names if name != rival]
    found = [draws.contrast(names.index(name), names.index(rival)) for name in others]
    corrected = holm([one.p for one in found])
    return {name: replace(one, p_holm=p) for name, one, p in zip(others, found, corrected, strict=True)}


def _marginals(settings: PlantedSettings, cells: Sequence[PlantedCell]) -> tuple[PlantedMarginal, ...]:
    """At the rank that is spoken of, over the worlds of a grid that share a value."""
    found: list[PlantedMarginal] = []
    spoken = [one for one in cells if one.rank == settings.spoken_rank]
    for grid, vary in settings.grids.items():
        for setting, values in vary.items():
            for value in values if len(values) > 1 else ():
                for truth in TRUTHS:
                    mine = [
                        one for one in spoken if one.grid == grid and one.truth == truth and one.point[setting] == value
                    ]
                    draws = _draws(settings, mine, _best_error) if mine else None
                    found += [
                        PlantedMarginal(grid, setting, value, name, truth, draws.mean(k))
                        for k, name in enumerate(settings.contestants)
                        if draws is not None
                    ]
    return tuple(found)


def _draws(settings: PlantedSettings, cells: Sequence[PlantedCell], part: Callable[[PlantedCell], float]) -> Draws:
    """Worlds as rows, contestants as columns; cells come seed by seed and world by world."""
    seeds = []
    for seed in settings.seeds:
        columns = [
            [part(one) for one in cells if one.seed == seed and one.contestant == name] for name in settings.contestants
        ]
        seeds.append(np.array(columns, dtype=np.float64).T)
    ones = [np.ones(len(rows), dtype=np.int64) for rows in seeds]
    return draw_losses(seeds, ones, n_bootstrap=settings.n_bootstrap, seed=0)


def _best_error(cell: PlantedCell) -> float:
    return cell.best_error


def _error(cell: PlantedCell) -> float:
    return cell.error
