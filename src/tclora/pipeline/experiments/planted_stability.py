"""How stable CP is on planted adapters: starts x sweeps x noise x numbers of terms x seeds.

In: `StabilityConfig`. Out: `StabilityFigures`. Each combination of noise, number of terms, sweeps and seed is kept on
disk as soon as it is known. Refused: planted adapters that do not fit.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

import tclora
from tclora.artifacts import digest_of, read_json, write_json
from tclora.config.experiment_planted import PlantedSettings, StabilityConfig
from tclora.pipeline.experiments.planted_measure import spec_of
from tclora.pipeline.progress import Progress
from tclora.records import from_json, to_json
from tclora.records.testbeds import StabilityCell, StabilityFigures
from tclora.testbeds import SOLVER, cp_trials, plant

__all__ = ["check_stability", "stability_figures"]


def check_stability(config: StabilityConfig) -> None:
    """Refuse planted adapters that are not possible.

    Raises:
        ConfigError: the directions do not fit.
    """
    spec_of(config.adapters)


def stability_figures(settings: PlantedSettings, work: Path, progress: Progress) -> tuple[StabilityFigures, ...]:
    """Fit what is not fitted yet; nothing where the settings ask for nothing."""
    config = settings.stability
    if config is None:
        return ()
    combinations = list(product(config.noise, config.cp_ranks, config.sweeps))
    found = []
    for done, (noise, cp_rank, sweeps) in enumerate(combinations, start=1):
        cells = [cell for seed in settings.seeds for cell in _trials(config, (noise, cp_rank, sweeps, seed), work)]
        found.append(_figures(cells, config.near))
        progress.step("CP stability", done, len(combinations))
    return tuple(found)


def _trials(config: StabilityConfig, what: tuple[float, int, int, int], work: Path) -> list[StabilityCell]:
    noise, cp_rank, sweeps, seed = what
    adapters = config.adapters.changed({"noise": noise})
    facts = {
        "stability": adapters.model_dump(mode="json"),
        "what": list(what),
        "n_starts": config.n_starts,
        "tclora": tclora.__version__,
    }
    path = work / f"{digest_of(facts)}.json"
    if path.is_file():
        return [from_json(StabilityCell, cell) for cell in read_json(path)]
    world = plant(spec_of(adapters), seed=seed)
    trials = cp_trials(world, cp_rank=cp_rank, sweeps=sweeps, n_starts=config.n_starts, seed=seed)
    cells = [
        StabilityCell(*what, one.module, one.start, one.relative_error, min(1.0, one.factor_match), one.converged)
        for one in trials
    ]
    write_json(path, [to_json(cell) for cell in cells])
    return cells


def _figures(cells: Sequence[StabilityCell], near: float) -> StabilityFigures:
    models = [
        [one for one in cells if (one.seed, one.module) == key]
        for key in dict.fromkeys((one.seed, one.module) for one in cells)
    ]
    solver = [next(one for one in model if one.start == SOLVER) for model in models]
    errors = np.array([[one.relative_error for one in model if one.start != SOLVER] for model in models])
    matches = np.array([[one.factor_match for one in model if one.start != SOLVER] for model in models])
    best = errors.min(axis=1, keepdims=True)
    return StabilityFigures(
        noise=cells[0].noise,
        cp_rank=cells[0].cp_rank,
        sweeps=cells[0].sweeps,
        n_models=len(models),
        error=float(np.mean([one.relative_error for one in solver])),
        error_spread=float((errors.max(axis=1) - best[:, 0]).mean()),
        share_near=float((errors <= best + near).mean()),
        match=float(np.mean([one.factor_match for one in solver])),
        match_lowest=float(min(one.factor_match for one in solver)),
        match_starts=float(matches.mean()),
    )
