"""From losses row by row to the figures of an experiment: of each seed, and over the seeds.

In: measured libraries. Out: the cells and the pooled figures of an `ExperimentRecord`. Refused: as `columns_of`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tclora.config.experiment_merges import MergesSettings
from tclora.evaluation import accuracy
from tclora.evaluation.seed_draws import Draws, holm
from tclora.pipeline.experiments.columns import (
    Columns,
    columns_of,
    common_folds,
    draws_of,
    gap_of,
    match_draws_of,
    rivals_of,
)
from tclora.pipeline.experiments.measure import Measured, MeasuredLibrary
from tclora.records import Score
from tclora.records.experiment import Contrast, ExperimentCell, PooledFigures

__all__ = ["cells_of", "pooled_of"]


def cells_of(settings: MergesSettings, measured: Sequence[MeasuredLibrary]) -> tuple[ExperimentCell, ...]:
    """One record for each library, seed and contestant."""
    cells = []
    for library in measured:
        columns = columns_of(settings, measured, [library])
        draws = {fold: draws_of(settings, columns, fold) for fold in common_folds([library])}
        for name, one in library.contestants.items():
            figures = {fold: _figures(settings, columns, name, drawn) for fold, drawn in draws.items()}
            cells.append(_cell(library, name, one, figures))
    return tuple(cells)


def pooled_of(settings: MergesSettings, measured: Sequence[MeasuredLibrary]) -> tuple[PooledFigures, ...]:
    """One record for each library and contestant that every seed has."""
    return tuple(
        figures
        for name in settings.libraries
        if (libraries := [library for library in measured if library.name == name])
        for figures in _pooled(settings, measured, libraries)
    )


def _pooled(
    settings: MergesSettings, measured: Sequence[MeasuredLibrary], libraries: Sequence[MeasuredLibrary]
) -> list[PooledFigures]:
    columns = columns_of(settings, measured, libraries)
    own = [name for name in columns if "/" not in name]
    folds = common_folds(libraries)
    draws = {fold: draws_of(settings, columns, fold) for fold in folds}
    matches = match_draws_of(settings, columns)
    found = [_pooled_one(settings, libraries[0].name, columns, name, (draws, matches)) for name in own]
    return _corrected(found, settings.rivals, folds)


def _pooled_one(
    settings: MergesSettings,
    library: str,
    columns: Columns,
    name: str,
    drawn: tuple[Mapping[str, Draws], Draws | None],
) -> PooledFigures:
    draws, matches = drawn
    config, places, mine = settings.entries[name], list(columns), columns[name]
    less = {
        rival: {fold: one.contrast(places.index(name), places.index(rival)) for fold, one in draws.items()}
        for rival in rivals_of(settings, columns, name)
    }
    ranks = [one.rank for one in mine if one.rank is not None]
    return PooledFigures(
        library=library,
        contestant=name,
        kind=config.kind,
        rank=max(ranks) if ranks else None,
        loss={fold: one.mean(places.index(name)) for fold, one in draws.items()},
        less=less,
        gap_closed={fold: share for fold, one in draws.items() if (share := gap_of(settings, places, name, one))},
        exact_match=None if matches is None else matches.mean(places.index(name)),
        scales=tuple(one.scale for one in mine),
        scale_at_end=any(one.at_end for one in mine),
        norm_to_mean=_mean([one.norm_to_mean for one in mine]),
        cosine_to_mean=_mean([one.cosine_to_mean for one in mine]),
        series=config.series,
        x=config.x if config.x is not None else settings.libraries[library].x,
    )


def _corrected(found: list[PooledFigures], rivals: Sequence[str], folds: Sequence[str]) -> list[PooledFigures]:
    """The same with Holm's correction over the contestants that are compared with one rival on one fold."""
    for rival in rivals:
        for fold in folds:
            places = [i for i, one in enumerate(found) if rival in one.less]
            for i, p in zip(places, holm([found[i].less[rival][fold].p for i in places]), strict=True):
                contrasts = found[i].less[rival]
                corrected = {**contrasts, fold: replace(contrasts[fold], p_holm=p)}
                found[i] = replace(found[i], less={**found[i].less, rival: corrected})
    return found


def _figures(settings: MergesSettings, columns: Columns, name: str, drawn: Draws) -> tuple[Score, dict[str, Contrast]]:
    names = list(columns)
    place = names.index(name)
    less = {r: drawn.contrast(place, names.index(r)) for r in rivals_of(settings, columns, name)}
    return drawn.mean(place), less


def _cell(
    library: MeasuredLibrary, name: str, one: Measured, figures: Mapping[str, tuple[Score, dict[str, Contrast]]]
) -> ExperimentCell:
    rivals = next(iter(figures.values()))[1]
    return ExperimentCell(
        library=library.name,
        seed=library.seed,
        contestant=name,
        rank=one.rank,
        scale=one.scale,
        scale_at_end=one.at_end,
        losses_by_scale={f"{scale:g}": one.path[scale] for scale in sorted(one.path)},
        loss={fold: loss for fold, (loss, _) in figures.items()},
        less={
            rival: {
                fold: Score(less[rival].value, less[rival].low, less[rival].high, less[rival].n_rows)
                for fold, (_, less) in figures.items()
            }
            for rival in rivals
        },
        exact_match=accuracy(sum(one.right), len(one.right)) if one.right else None,
        norm_to_mean=one.norm_to_mean,
        cosine_to_mean=one.cosine_to_mean,
        relative_error=one.relative_error,
        cut_error=one.cut_error,
        source=one.source,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
