"""Experiments of kind `merges`: libraries x seeds x contestants, measured alike.

In: `MergesSettings`. Out: the page. Libraries that are not there are trained; those that are, are only read. Every loss
is kept as soon as it is known, so a killed experiment goes on. Refused before any work: unknown methods and parameters,
and contestants that a library's run does not have.
"""

from collections.abc import Mapping
from pathlib import Path

from tclora.config import BaseModelConfig, RunConfig
from tclora.config.experiment_merges import ContestantConfig, MergesSettings
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS, parse_params
from tclora.models import Base, load_base
from tclora.pipeline.experiments.contrasts import groups_of, versus_of
from tclora.pipeline.experiments.figures import cells_of, pooled_of
from tclora.pipeline.experiments.library import is_trained, library_config, open_library
from tclora.pipeline.experiments.measure import MeasuredLibrary, measure_library
from tclora.pipeline.progress import Progress
from tclora.records.experiment import ExperimentRecord
from tclora.reporting.experiment_merges import merges_page
from tclora.reporting.experiment_page import ExperimentPage

__all__ = ["check_merges", "plan_merges", "run_merges"]


def check_merges(settings: MergesSettings) -> Mapping[tuple[str, int], RunConfig]:
    """The run of every library and seed; refuses what can be told to be wrong from settings alone.

    Raises:
        ConfigError, UnknownNameError: names the contestant or the library.
    """
    for name, one in settings.entries.items():
        if one.kind == "merge":
            _check_merge(name, one)
    runs = {
        (name, seed): library_config(settings, name, seed) for name in settings.libraries for seed in settings.seeds
    }
    folders = [Path(config.output).expanduser().resolve() for config in runs.values()]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ConfigError("two libraries lie in one folder", where="libraries", found=twice, do="give each its own")
    for (name, _), config in runs.items():
        for contestant, one in settings.in_library(name).items():
            _check_run(name, config, contestant, one)
            if one.like is not None and one.like not in settings.in_library(name):
                raise ConfigError(
                    f"'{contestant}' is like a contestant that does not take part in every library it is in",
                    where=f"libraries.{name}",
                    found=one.like,
                    do="give both the same `libraries`",
                )
    return runs


def plan_merges(settings: MergesSettings) -> dict[str, object]:
    """What would be done, for `--dry-run`."""
    runs = check_merges(settings)
    rows = settings.rows
    entries = {name: settings.in_library(name) for name in settings.libraries}
    n_scaled = sum(one.chosen_scale is None for held in entries.values() for one in held.values())
    n_all = sum(map(len, entries.values()))
    # A walk looks at five or six scales, then at its refinements.
    looks = len(settings.scales.grid) if settings.scales.walk == "every" else 5
    most = len(settings.seeds) * (
        n_scaled * (looks + settings.scales.steps) * rows.choose + n_all * (rows.report + rows.held_out)
    )
    return {
        "libraries": [f"{c.output} ({'trained' if is_trained(c) else 'to be trained'})" for c in runs.values()],
        "seeds": list(settings.seeds),
        "contestants": list(settings.entries),
        "rows": f"for each library and seed {rows.choose} choose, {rows.report} report, {rows.held_out} held out",
        "row losses": f"about {most:,}, less what is in {settings.cache or settings.output}",
    }


def run_merges(settings: MergesSettings, work: Path, command: str, progress: Progress) -> ExperimentPage:
    """Measure everything and make the page."""
    record = _record(settings, work, progress)
    how = [f"Settings are in the experiment's file; its libraries: {', '.join(settings.libraries)}."]
    return merges_page(record, settings, command=command, how=how)


def _record(settings: MergesSettings, work: Path, progress: Progress) -> ExperimentRecord:
    check_merges(settings)
    bases: dict[str, Base] = {}

    def base_of(config: BaseModelConfig) -> Base:
        key = config.model_dump_json()
        if key not in bases:
            bases[key] = load_base(config)
        return bases[key]

    measured: list[MeasuredLibrary] = []
    for seed in settings.seeds:
        for name in settings.libraries:
            library = open_library(settings, name, seed, base_of, progress)
            measured.append(measure_library(library, settings, work, progress))
    measured.sort(key=lambda one: list(settings.libraries).index(one.name))
    return ExperimentRecord(
        name=settings.name,
        base=Path(measured[0].base).name,
        n_parameters=measured[0].n_parameters,
        seeds=settings.seeds,
        rows={name: _rows_of(measured, name) for name in settings.libraries},
        n_adapters={name: tuple(one.n_adapters for one in measured if one.name == name) for name in settings.libraries},
        cells=cells_of(settings, measured),
        pooled=pooled_of(settings, measured),
        versus=versus_of(settings, measured),
        groups=groups_of(settings, measured),
        spectra=tuple(row for one in measured for row in one.spectra),
        quality=tuple(one.quality for one in measured if one.quality is not None),
        left_out=tuple(row for one in measured for row in one.left_out),
        settings=settings.model_dump(mode="json", exclude={"folder", "output", "page", "cache"}),
    )


def _rows_of(measured: list[MeasuredLibrary], name: str) -> dict[str, int]:
    """Rows of each fold over the seeds of a library."""
    mine = [one.n_rows for one in measured if one.name == name]
    return {fold: sum(rows[fold] for rows in mine) for fold in mine[0] if all(fold in rows for rows in mine)}


def _check_merge(name: str, one: ContestantConfig) -> None:
    method = one.method or ""
    facts = MERGE_METHODS.entry(method).facts
    parse_params(method, one.params)
    # The values of a sweep have not been through the checks of a key.
    rank: object = one.output_rank
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
        raise ConfigError("a rank is a whole number of 1 or more", where=f"contestants.{name}", found=rank)
    if one.weights == "size" and "learns" in facts and not facts.get("takes_weights"):
        raise ConfigError(
            f"'{method}' learns its weights", where=f"contestants.{name}", found="weights: size", do="leave weights out"
        )


def _check_run(library: str, config: RunConfig, contestant: str, one: ContestantConfig) -> None:
    lacks = None
    if one.kind == "multi_task" and not config.train.multi_task:
        lacks = "train.multi_task: true"
    if one.of == "random_clusters" and "random_clusters" not in config.train.controls:
        lacks = "train.controls: [random_clusters]"
    if lacks:
        raise ConfigError(
            f"the library has nothing to make '{contestant}' from",
            where=f"libraries.{library}",
            expected=f"a run with {lacks}",
            do=f"set it under libraries.{library}.set, or name the contestant's `libraries`",
        )
