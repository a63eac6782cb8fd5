"""The page of an experiment of kind `planted`: the answer by rule, tables by rank and by setting, what it cannot say.

In: a `PlantedRecord`, its settings and what each truth is. Out: an `ExperimentPage`. No rule knows a method by name.
"""

from collections.abc import Mapping, Sequence

from tclora.config.experiment_planted import PlantedSettings
from tclora.records import to_json
from tclora.records.testbeds import PlantedFigures, PlantedRecord
from tclora.reporting.experiment_answer import signed, verdict
from tclora.reporting.experiment_page import ExperimentPage, PageTable
from tclora.reporting.planted_plots import planted_pictures
from tclora.reporting.planted_stability_page import stability_sentence, stability_table
from tclora.reporting.wording import NONE, count, listing, loss, number

__all__ = ["planted_page"]

KEEP = "keep"


def planted_page(
    record: PlantedRecord, settings: PlantedSettings, truths: Mapping[str, str], *, command: str
) -> ExperimentPage:
    """The whole page."""
    pictures, alt = planted_pictures(record, settings.title)
    tables = [_by_rank(record, settings, rank, first=not k) for k, rank in enumerate(_ranks(settings))]
    tables += [_by_setting(record, grid, setting) for grid, setting in _varied(record)]
    if settings.stability is not None:
        tables.append(stability_table(record, settings.stability))
    return ExperimentPage(
        title=settings.title,
        question=settings.question,
        answer=_answer(record, settings),
        tables=tables,
        limits=[*settings.beside, *_LIMITS],
        how=_how(record, settings, truths),
        results=to_json(record),
        command=command,
        pictures=pictures,
        alt=alt,
    )


_LIMITS = (
    "Planted adapters are no trained adapters: their directions are random, their sizes fall evenly, and every module "
    "is alike. What is true here need not be true of a library.",
    "A Frobenius distance of weights is no loss of a model: a direction that no input uses counts as much as one that "
    "all use.",
    "Best scales are chosen by the truth itself, which no user has; errors at the scale as it stands are beside them.",
    "Intervals resample seeds and worlds of the grids that were chosen; another choice of grids has other means.",
)


def _ranks(settings: PlantedSettings) -> list[int | str]:
    """The rank that is spoken of first."""
    spoken = settings.spoken_rank
    return [spoken, *(rank for rank in settings.ranks if rank != spoken)]


def _answer(record: PlantedRecord, settings: PlantedSettings) -> str:
    rank = settings.spoken_rank
    mine = [one for one in record.figures if one.rank == rank and one.truth == KEEP]
    best = min(mine, key=lambda one: (one.best_error.value, one.contestant))
    first = (
        f"Over {_seeds(record)} of {count(record.n_worlds)} planted worlds, at {_rank(rank)} and the best scale "
        f"of each, the merge nearest to keeping every shared and private part is {best.contestant}, which "
        f"misses {loss(best.best_error)} of its norm"
    )
    told = [
        f"{one.contestant} less {rival} is {signed(contrast)} ({verdict(contrast)})"
        for one in mine
        if one.contestant in settings.about
        for rival, contrast in one.less.items()
    ]
    parts = [f"{first}{f', and {listing(told)}' if told else ''}."]
    parts.append(stability_sentence(record) if record.stability else "CP stability was not asked for.")
    return " ".join(parts)


def _by_rank(record: PlantedRecord, settings: PlantedSettings, rank: int | str, *, first: bool) -> PageTable:
    mine = [one for one in record.figures if one.rank == rank]
    names = sorted(settings.contestants, key=lambda name: (_of(mine, name, KEEP).best_error.value, name))
    others = [truth for truth in dict.fromkeys(one.truth for one in mine) if truth != KEEP]
    lesses = [f"less {rival}" for rival in settings.rivals]
    header = ["contestant", "keep, best scale", *lesses, "keep, as it stands", *(f"{t}, best scale" for t in others)]
    rows = [
        [
            name,
            loss(_of(mine, name, KEEP).best_error),
            *(_less(_of(mine, name, KEEP), rival) for rival in settings.rivals),
            loss(_of(mine, name, KEEP).error),
            *(loss(_of(mine, name, truth).best_error) for truth in others),
        ]
        for name in names
    ]
    return PageTable(header, rows, heading=f"At {_rank(rank)}", legend=_LEGEND if first else ())


_LEGEND = (
    "Recovery error: Frobenius norm of what a merge differs from a truth by, over that of the truth; 0 is exact, and "
    "nothing at all has 1. In brackets 95 % bootstrap intervals that resample seeds, then worlds.",
    "Less: the difference at best scales on the same worlds; better and worse by Holm's corrected p below 0.05.",
)


def _by_setting(record: PlantedRecord, grid: str, setting: str) -> PageTable:
    mine = [one for one in record.marginals if one.grid == grid and one.setting == setting and one.truth == KEEP]
    values = list(dict.fromkeys(one.value for one in mine))
    figures = {(one.contestant, one.value): one.best_error.value for one in mine}
    names = sorted(dict.fromkeys(one.contestant for one in mine), key=lambda name: (figures[name, values[0]], name))
    header = ["contestant", *(f"{value:g}" for value in values)]
    rows = [[name, *(number(figures[name, value]) for value in values)] for name in names]
    return PageTable(
        header,
        rows,
        heading=f"{_words(setting)}, grid {grid}",
        before="Keep, best scale, in the mean over seeds and the grid's other settings.",
    )


def _varied(record: PlantedRecord) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.grid, one.setting) for one in record.marginals))


def _how(record: PlantedRecord, settings: PlantedSettings, truths: Mapping[str, str]) -> list[str]:
    one = settings.adapters
    return [
        f"Truths: {'; '.join(f'{name} is {words}' for name, words in truths.items())}.",
        f"Where a grid does not say otherwise: {one.n_adapters} adapters of rank {one.rank}, {one.n_shared} of their "
        f"directions shared, in {one.n_modules} modules of {one.d_out} x {one.d_in}, overlap {one.overlap:g}, shared "
        f"strength {one.shared_strength:g}, sign conflict {one.sign_conflict:g}, noise {one.noise:g}.",
        "Merges with a rank of their own are asked for the output rank; others are cut to it by an SVD of each module.",
        f"Seeds {listing([str(seed) for seed in record.seeds])}; nothing is trained, and no base is used.",
    ]


def _of(figures: Sequence[PlantedFigures], name: str, truth: str) -> PlantedFigures:
    return next(one for one in figures if one.contestant == name and one.truth == truth)


def _less(one: PlantedFigures, rival: str) -> str:
    return f"{signed(one.less[rival])} {verdict(one.less[rival])}" if rival in one.less else NONE


def _rank(rank: int | str) -> str:
    return "full rank" if rank == "full" else f"output rank {rank}"


def _seeds(record: PlantedRecord) -> str:
    return "one seed" if len(record.seeds) == 1 else f"{count(len(record.seeds))} seeds"


def _words(setting: str) -> str:
    return setting.replace("_", " ").capitalize()
