"""What an experiment is about against every other contestant, and every contestant on groups of rows.

In: measured libraries. Out: the `VersusRow`s and `GroupFigures` of an `ExperimentRecord`. Groups of few rows are put
together as `others`. Refused: as `columns_of`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tclora.config.experiment_merges import MergesSettings
from tclora.evaluation.seed_draws import Draws, draw_losses, holm
from tclora.pipeline.experiments.columns import Columns, columns_of, common_folds, draws_of, gap_of, rivals_of
from tclora.pipeline.experiments.measure import MeasuredLibrary
from tclora.pipeline.experiments.rows import REPORT
from tclora.records.experiment import Contrast, GroupFigures, VersusRow

__all__ = ["groups_of", "versus_of"]


OTHERS = "others"


def versus_of(settings: MergesSettings, measured: Sequence[MeasuredLibrary]) -> tuple[VersusRow, ...]:
    """Each contestant that the experiment is about against every other one, in each library."""
    found = []
    for name in settings.libraries if settings.about else ():
        libraries = [library for library in measured if library.name == name]
        columns = columns_of(settings, measured, libraries)
        draws = {fold: draws_of(settings, columns, fold) for fold in common_folds(libraries)}
        for contestant in columns:
            if "/" not in contestant and _is_about(settings, contestant):
                found += _versus(settings, name, list(columns), contestant, draws)
    return tuple(found)


def groups_of(settings: MergesSettings, measured: Sequence[MeasuredLibrary]) -> tuple[GroupFigures, ...]:
    """One record for each library, group of `report` rows and contestant; rows of all seeds together."""
    found = []
    for name in settings.libraries if settings.by != "none" else ():
        libraries = [library for library in measured if library.name == name]
        columns = columns_of(settings, measured, libraries)
        groups = np.array([group for library in libraries for group in library.groups])
        sizes = Counter(groups.tolist())
        small = [group for group, n in sizes.items() if n < settings.by_min_rows]
        groups = np.where(np.isin(groups, small), OTHERS, groups) if small else groups
        for group in sorted(set(groups.tolist()), key=lambda group: (group == OTHERS, group)):
            found += _group(settings, name, group, columns, np.flatnonzero(groups == group))
    return tuple(found)


def _versus(
    settings: MergesSettings, library: str, places: list[str], contestant: str, draws: Mapping[str, Draws]
) -> list[VersusRow]:
    others = [name for name in places if "/" not in name and name != contestant]
    less: dict[str, dict[str, Contrast]] = {name: {} for name in others}
    for fold, drawn in draws.items():
        contrasts = [drawn.contrast(places.index(contestant), places.index(name)) for name in others]
        for name, one, p in zip(others, contrasts, holm([one.p for one in contrasts]), strict=True):
            less[name][fold] = replace(one, p_holm=p)
    return [VersusRow(library, contestant, name, settings.entries[name].kind, less[name]) for name in others]


def _is_about(settings: MergesSettings, name: str) -> bool:
    return name in settings.about or settings.entries[name].series in settings.about


def _group(
    settings: MergesSettings, library: str, group: str, columns: Columns, wanted: np.ndarray
) -> list[GroupFigures]:
    nats, n_tokens = _together(columns)
    names = list(columns)
    drawn = draw_losses([nats[wanted]], [n_tokens[wanted]], n_bootstrap=settings.n_bootstrap, seed=0)
    found = []
    for place, name in enumerate(names):
        if "/" in name:
            continue
        less = {r: drawn.contrast(place, names.index(r)) for r in rivals_of(settings, columns, name)}
        gap = gap_of(settings, names, name, drawn)
        found.append(GroupFigures(library, group, name, len(wanted), drawn.mean(place), less, gap))
    return found


def _together(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """The `report` rows of all seeds one below the other."""
    matrix = np.stack([np.concatenate([one.losses[REPORT].nats for one in seeds]) for seeds in columns.values()], 1)
    first = next(iter(columns.values()))
    return matrix, np.concatenate([one.losses[REPORT].n_tokens for one in first])
