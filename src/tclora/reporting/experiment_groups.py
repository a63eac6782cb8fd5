"""Tables of an experiment by group of rows, and of the adapters' spectra beside what merging costs their rows.

In: an `ExperimentRecord`. Out: `PageTable`s.
"""

from collections.abc import Sequence

import numpy as np

from tclora.records.experiment import ExperimentRecord, GroupFigures, SpectrumRow
from tclora.reporting.experiment_answer import signed
from tclora.reporting.experiment_page import PageTable
from tclora.reporting.wording import NONE, count, number

__all__ = ["group_tables", "quality_table", "rank_correlation", "spectra_table"]


def group_tables(record: ExperimentRecord, rivals: Sequence[str]) -> list[PageTable]:
    """For each library, a table of losses by group, and one of differences to the first rival."""
    tables = []
    for library in dict.fromkeys(one.library for one in record.groups):
        mine = [one for one in record.groups if one.library == library]
        tables.append(_group_table(mine, library, ""))
        if rivals and any(rivals[0] in one.less for one in mine):
            tables.append(_group_table(mine, library, rivals[0]))
    return tables


def spectra_table(record: ExperimentRecord, gap: tuple[str, str] | None) -> PageTable:
    """One row for each adapter; below, how its directions and the gap that merging leaves on its rows go together."""
    names = [name for name in gap or () if all(name in row.losses for row in record.spectra if row.n_rows)]
    rows = [
        [
            row.library,
            str(row.seed),
            row.adapter,
            f"{row.family} ({100 * row.family_share:.0f}%)",
            count(row.n_train),
            number(row.norm, 2),
            number(row.effective_rank, 2),
            number(row.participation, 2),
            number(row.cosine_to_mean, 2),
            str(row.n_rows),
            *(number(row.losses.get(name)) for name in names),
        ]
        for row in record.spectra
    ]
    measures = ["norm", "effective rank", "participation", "cosine to mean"]
    header = ["library", "seed", "adapter", "commonest family", "training rows", *measures, "rows", *names]
    before = "Effective rank: exponential of the entropy of the singular values; participation: by energy; both means "
    before += "over modules. Losses are of the rows of the adapter's own cluster."
    return PageTable(header, rows, "The adapters' spectra", before, _correlations(record.spectra, gap))


def quality_table(record: ExperimentRecord) -> PageTable:
    """One row for each library and seed; below, how each measure and each contestant's loss go together."""
    names = list(dict.fromkeys(name for row in record.quality for name in row.losses))
    names = [name for name in names if all(name in row.losses for row in record.quality)]
    rows = [
        [row.library, str(row.seed), str(row.n_clusters), *(number(getattr(row, key)) for key in _MEASURES)]
        + [number(row.losses[name]) for name in names]
        for row in record.quality
    ]
    header = ["library", "seed", "clusters", *_MEASURES.values(), *names]
    legend = [told for name in names if (told := _quality_correlations(record, name))]
    before = "Measures are of the training rows; losses of the reported rows, each contestant at its own scale."
    return PageTable(header, rows, "Clustering quality and loss", before, legend)


_MEASURES = {"balance": "balance", "silhouette": "silhouette", "purity": "purity", "task_nmi": "NMI with tasks"}


def _quality_correlations(record: ExperimentRecord, name: str) -> str:
    """Rank correlations of one contestant's loss, less the mean of its seed, with each measure."""
    rows = record.quality
    level = {seed: np.mean([row.losses[name] for row in rows if row.seed == seed]) for seed in record.seeds}
    losses = [row.losses[name] - float(level[row.seed]) for row in rows]
    told = []
    for key, measure in _MEASURES.items():
        values = [getattr(row, key) for row in rows]
        rho = None if None in values else rank_correlation(values, losses)
        told += [] if rho is None else [f"{measure} {rho:+.2f}"]
    if not told:
        return ""
    return (
        f"{name}: rank correlation of its loss, less the mean of the seed, over {len(rows)} libraries with "
        f"{', '.join(told)}; negative where the better clustering has the lower loss."
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None for fewer than three pairs or no spread."""
    if len(first) < 3:
        return None
    one, other = _ranks(first), _ranks(second)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _group_table(mine: Sequence[GroupFigures], library: str, rival: str) -> PageTable:
    contestants = [name for name in dict.fromkeys(one.contestant for one in mine) if name != rival]
    rows = []
    for group in dict.fromkeys(one.group for one in mine):
        cells = {one.contestant: one for one in mine if one.group == group}
        n_rows = next(iter(cells.values())).n_rows
        rows.append([group, str(n_rows), *(_cell(cells[name], rival) for name in contestants)])
    heading = f"By group, {library}: " + (f"less {rival}" if rival else "loss")
    before = "Rows of all seeds together; intervals, where given, are over rows and not corrected for their number."
    return PageTable(["group", "rows", *contestants], rows, heading, before)


def _cell(one: GroupFigures, rival: str) -> str:
    if not rival:
        return number(one.loss.value)
    return signed(one.less[rival]) if rival in one.less else NONE


def _correlations(rows: Sequence[SpectrumRow], gap: tuple[str, str] | None) -> list[str]:
    if gap is None:
        return []
    known = [row for row in rows if set(gap) <= set(row.losses)]
    left = [row.losses[gap[0]] - row.losses[gap[1]] for row in known]
    measures = {
        "effective rank": [row.effective_rank for row in known],
        "participation": [row.participation for row in known],
        "norm": [row.norm for row in known],
        "cosine with the mean": [row.cosine_to_mean for row in known],
        "training rows": [float(row.n_train) for row in known],
    }
    told = [
        f"{name} {rho:+.2f}" for name, values in measures.items() if (rho := rank_correlation(values, left)) is not None
    ]
    if not told:
        return []
    return [
        f"Rank correlation over {len(known)} adapters with what merging loses on an adapter's rows (loss of {gap[0]} "
        f"less that of {gap[1]}): {', '.join(told)}. Adapters of one library are not independent: no interval is given."
    ]


def _ranks(values: Sequence[float]) -> np.ndarray:
    given = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
