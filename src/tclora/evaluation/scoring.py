"""The work itself: which adapter must answer which rows, done once each, kept on disk.

In: contestants and row sets. Out: for every contestant and row set, one result per row. A routed contestant takes
each row from its cluster's adapter. Where that adapter is a contestant too, its results are shared; where it is not,
it answers the rows of its own cluster only.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tclora.adapters import Adapter, read_adapter
from tclora.evaluation.cache import adapter_digest, base_digest, load_rows, row_key, store_rows
from tclora.evaluation.contestants import Contestant
from tclora.evaluation.rows import Row, RowSet, score_rows
from tclora.models import Base, attached

__all__ = ["Progress", "Scored", "plan_work", "score_contestants"]

Progress = Callable[[str, int, int], None]
# Rows wanted of each row set, for each adapter folder; None is the bare base.
Plan = dict[str | None, dict[str, list[int]]]


@dataclass(frozen=True)
class Scored:
    """Results by contestant and row set, one per row; and the largest LoRA rank behind each contestant."""

    rows: Mapping[str, Mapping[str, list[Row]]]
    ranks: Mapping[str, int | None]


def score_contestants(
    base: Base,
    contestants: Sequence[Contestant],
    row_sets: Mapping[str, RowSet],
    *,
    batch_size: int,
    cache: Path,
    on_progress: Progress | None = None,
) -> Scored:
    """Score every row for every contestant, with each adapter read and attached at most once.

    `on_progress` is called after each unit of work with its name, the units done and the units in all.

    Raises:
        AdapterError: a folder is no adapter, or does not belong to the base.
        NumericalError: a loss is not finite.
    """
    plan = plan_work(contestants, row_sets)
    work = _Work(base, base_digest(base), row_sets, batch_size, cache)
    tell = _teller(on_progress, sum(len(wanted) for wanted in plan.values()))
    found: dict[str | None, dict[str, dict[int, Row]]] = {}
    ranks: dict[str | None, int] = {}
    for folder, wanted in plan.items():
        adapter = None if folder is None else read_adapter(Path(folder))
        ranks[folder] = 0 if adapter is None else max(shape.r for shape in adapter.shapes.values())
        found[folder] = _score_adapter(work, adapter, wanted, tell)
    return Scored(
        {c.name: {name: _select(c, row_set, found) for name, row_set in row_sets.items()} for c in contestants},
        {c.name: max((ranks[folder] for folder in c.folders), default=None) for c in contestants},
    )


def plan_work(contestants: Sequence[Contestant], row_sets: Mapping[str, RowSet]) -> Plan:
    """List, for each adapter folder, the rows that some contestant needs of it, in ascending order."""
    needed: dict[str | None, dict[str, set[int]]] = {}
    for contestant in contestants:
        for folder in contestant.folders or (None,):
            needed.setdefault(folder, {name: set() for name in row_sets})
        for name, row_set in row_sets.items():
            for i, group in enumerate(row_set.groups(contestant.route)):
                needed[contestant.folder_for(group)][name].add(i)
    return {folder: {name: sorted(rows) for name, rows in sets.items() if rows} for folder, sets in needed.items()}


@dataclass(frozen=True)
class _Work:
    base: Base
    base_key: str
    row_sets: Mapping[str, RowSet]
    batch_size: int
    cache: Path


def _teller(on_progress: Progress | None, total: int) -> Callable[[str], None]:
    counter = itertools.count(1)
    return lambda label: on_progress(label, next(counter), total) if on_progress is not None else None


def _score_adapter(
    work: _Work, adapter: Adapter | None, wanted: Mapping[str, list[int]], tell: Callable[[str], None]
) -> dict[str, dict[int, Row]]:
    digest = None if adapter is None else adapter_digest(adapter)
    keys = {name: row_key(work.base_key, digest, work.row_sets[name], rows) for name, rows in wanted.items()}
    results = {name: load_rows(work.cache, keys[name], len(rows)) for name, rows in wanted.items()}
    # Attaching reads the adapter's tensors, so it is left out where everything is on disk.
    idle = adapter is None or all(rows is not None for rows in results.values())
    by_row = {}
    with nullcontext(work.base) if idle or adapter is None else attached(work.base, adapter) as base:
        for name, wanted_rows in wanted.items():
            rows = results[name]
            if rows is None:
                rows = score_rows(base, work.row_sets[name], wanted_rows, batch_size=work.batch_size)
                store_rows(work.cache, keys[name], rows)
            by_row[name] = dict(zip(wanted_rows, rows, strict=True))
            tell(f"{adapter.name if adapter else 'base'}: {name}")
    return by_row


def _select(
    contestant: Contestant, row_set: RowSet, found: Mapping[str | None, Mapping[str, Mapping[int, Row]]]
) -> list[Row]:
    folders = [contestant.folder_for(group) for group in row_set.groups(contestant.route)]
    return [found[folder][row_set.name][i] for i, folder in enumerate(folders)]
