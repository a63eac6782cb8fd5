"""One planted world: every contestant at every output rank, against every truth.

In: settings, a grid, a point and a seed. Out: `PlantedCell`s, kept on disk under the digest of all that they depend
on, so a killed experiment goes on. Refused before any work: unknown methods, parameters and rank parameters.
"""

from collections.abc import Iterator
from pathlib import Path

import tclora
from tclora.adapters import Adapter
from tclora.artifacts import digest_of, read_json, write_json
from tclora.config.experiment_planted import PlantConfig, PlantedMergeConfig, PlantedSettings
from tclora.errors import ConfigError
from tclora.merging import merge_adapters, parse_params
from tclora.pipeline.checks.cut_rank import cut_rank
from tclora.records import from_json, to_json
from tclora.records.testbeds import PlantedCell, Point
from tclora.testbeds import PlantedSpec, PlantedWorld, plant, recovery

__all__ = ["check_planted_merges", "measure_world", "spec_of"]


def check_planted_merges(settings: PlantedSettings) -> None:
    """Refuse what can be told to be wrong from settings alone.

    Raises:
        ConfigError, UnknownNameError: names the contestant.
    """
    for name, one in settings.contestants.items():
        ranked = {} if one.rank_param is None else {one.rank_param: 1}
        if one.rank_param in one.params:
            raise ConfigError(
                "the output rank sets a parameter that is also given",
                where=f"contestants.{name}",
                found=f"{one.rank_param}: {one.params[str(one.rank_param)]}",
                do="leave out one of the two; ranks are set under `ranks`",
            )
        parse_params(one.method or name, {**one.params, **ranked})
    for grid in settings.grids:
        for point in settings.points(grid):
            spec_of(settings.adapters.changed(point))


def spec_of(config: PlantConfig) -> PlantedSpec:
    """The settings as what is planted.

    Raises:
        ConfigError: the directions do not fit.
    """
    return PlantedSpec(**config.model_dump())


def measure_world(settings: PlantedSettings, grid: str, point: Point, seed: int, work: Path) -> tuple[PlantedCell, ...]:
    """The cells of one world, read where they are known.

    Raises:
        TcLoraError: as the merge.
    """
    config = settings.adapters.changed(point)
    asked = {name: one.model_dump(mode="json") for name, one in settings.contestants.items()}
    facts = {
        "adapters": config.model_dump(mode="json"),
        "grid": grid,
        "point": point,
        "seed": seed,
        "contestants": asked,
        "ranks": list(settings.ranks),
        "tclora": tclora.__version__,
    }
    path = work / f"{digest_of(facts)}.json"
    if path.is_file():
        return tuple(from_json(PlantedCell, cell) for cell in read_json(path))
    world = plant(spec_of(config), seed=seed)
    cells = tuple(
        PlantedCell(grid, point, seed, name, rank, truth, found.error, found.best_scale, found.best_error)
        for name, one in settings.contestants.items()
        for rank, merged in _merges(world, name, one, settings)
        for truth, true in world.truths.items()
        for found in [recovery(merged, true)]
    )
    write_json(path, [to_json(cell) for cell in cells])
    return cells


def _merges(
    world: PlantedWorld, name: str, one: PlantedMergeConfig, settings: PlantedSettings
) -> Iterator[tuple[int | str, Adapter]]:
    """The contestant's merge at every output rank; without a rank parameter it is made once and cut."""
    method, full = one.method or name, world.spec.rank * world.spec.n_adapters
    whole: Adapter | None = None
    for rank in settings.ranks:
        most = full if rank == "full" else min(int(rank), full)
        if one.rank_param is not None:
            params = {**one.params, one.rank_param: most}
            yield rank, merge_adapters(world.adapters, method, params=params, workers=1).adapter
            continue
        if whole is None:
            whole = merge_adapters(world.adapters, method, params=one.params, workers=1).adapter
        yield rank, cut_rank(whole, most)[0]
