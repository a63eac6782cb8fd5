"""The contestants of a library as columns that share the bootstrap's draws, so that every difference is paired.

In: measured libraries. Out: columns by name, draws of a fold, and the share of a gap. A rival of another library is a
column too, where its rows are the same. Refused: such a rival whose rows are others.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tclora.config.experiment_merges import MergesSettings
from tclora.errors import ConfigError
from tclora.evaluation.seed_draws import Draws, draw_losses
from tclora.pipeline.experiments.measure import Measured, MeasuredLibrary
from tclora.pipeline.experiments.rows import CHOOSE
from tclora.records import Score

__all__ = ["Columns", "columns_of", "common_folds", "draws_of", "gap_of", "match_draws_of", "rivals_of"]


Columns = Mapping[str, Sequence[Measured]]
"""Each contestant's results, one for each seed; `LIBRARY/NAME` for those of another library."""


def columns_of(
    settings: MergesSettings, measured: Sequence[MeasuredLibrary], libraries: Sequence[MeasuredLibrary]
) -> dict[str, list[Measured]]:
    """The contestants that every seed of the library has, and the rivals from other libraries."""
    common = set.intersection(*(set(library.contestants) for library in libraries))
    columns = {
        name: [library.contestants[name] for library in libraries]
        for name in settings.in_library(libraries[0].name)
        if name in common
    }
    for rival in settings.rivals:
        other, _, name = rival.partition("/")
        if name:
            found = [_beside(measured, library, other, name) for library in libraries]
            columns |= {rival: [one for one in found if one is not None]} if None not in found else {}
    return columns


def rivals_of(settings: MergesSettings, columns: Columns, name: str) -> list[str]:
    """The rivals that a contestant is compared with: those that take part, and are not the contestant itself."""
    mine = columns[name]
    known = [rival for rival in settings.rivals if rival in columns]
    return [r for r in known if any(one is not other for one, other in zip(columns[r], mine, strict=True))]


def common_folds(libraries: Sequence[MeasuredLibrary]) -> list[str]:
    """The folds that chose nothing and that every seed has."""
    return [fold for fold in libraries[0].rows if fold != CHOOSE and all(fold in one.rows for one in libraries)]


def draws_of(settings: MergesSettings, columns: Columns, fold: str) -> Draws:
    seeds = range(len(next(iter(columns.values()))))
    nats = [np.stack([column[s].losses[fold].nats for column in columns.values()], axis=1) for s in seeds]
    n_tokens = [next(iter(columns.values()))[s].losses[fold].n_tokens for s in seeds]
    return draw_losses(nats, n_tokens, n_bootstrap=settings.n_bootstrap, seed=0)


def match_draws_of(settings: MergesSettings, columns: Columns) -> Draws | None:
    if not settings.exact_match.rows:
        return None
    seeds = range(len(next(iter(columns.values()))))
    right = [np.array([column[s].right for column in columns.values()], dtype=np.float64).T for s in seeds]
    ones = [np.ones(len(rows), dtype=np.int64) for rows in right]
    return draw_losses(right, ones, n_bootstrap=settings.n_bootstrap, seed=0)


def gap_of(settings: MergesSettings, places: Sequence[str], name: str, drawn: Draws) -> Score | None:
    ends = () if settings.gap is None else (settings.gap.start, settings.gap.end)
    if not ends or not set(ends) <= set(places):
        return None
    return drawn.gap_closed(places.index(name), *(places.index(end) for end in ends))


def _beside(measured: Sequence[MeasuredLibrary], library: MeasuredLibrary, other: str, name: str) -> Measured | None:
    """A contestant of another library at the same seed."""
    match = next(one for one in measured if (one.name, one.seed) == (other, library.seed))
    if dict(match.rows) != dict(library.rows):
        raise ConfigError(
            "two libraries that are compared row by row have other rows",
            where=f"rivals: {other}/{name} against library {library.name}, seed {library.seed}",
            found="dev or held-out rows that differ",
            expected="libraries of the same data settings",
            do="compare within one library, or give both the same data",
        )
    return match.contestants.get(name)
