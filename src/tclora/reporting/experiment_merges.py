"""The page of an experiment of kind `merges`, made from its record.

In: an `ExperimentRecord` and the settings it was run with. Out: an `ExperimentPage`. What the page says that the
experiment does not show follows from the record: few seeds, a small base, scales at the end of what was tried.
"""

from collections.abc import Mapping, Sequence

from tclora.config.experiment_merges import MergesSettings
from tclora.records import Score, to_json
from tclora.records.experiment import Contrast, ExperimentRecord, PooledFigures
from tclora.reporting.experiment_answer import answer, signed, verdict
from tclora.reporting.experiment_groups import group_tables, quality_table, spectra_table
from tclora.reporting.experiment_page import ExperimentPage, PageTable
from tclora.reporting.experiment_plots import experiment_pictures
from tclora.reporting.wording import NONE, count, listing, loss, number, share

__all__ = ["main_table", "merges_page"]

REPORT, HELD_OUT = "report", "held_out"


def merges_page(
    record: ExperimentRecord, settings: MergesSettings, *, command: str, how: Sequence[str]
) -> ExperimentPage:
    """The whole page."""
    gap = (settings.gap.start, settings.gap.end) if settings.gap else None
    pictures, alt = experiment_pictures(record, settings.title, settings.rivals, settings.x_label)
    several = len(record.n_adapters) > 1
    main = [_main(record, settings, name, first=not place) for place, name in enumerate(record.n_adapters)]
    main = [one if several else _without_heading(one) for one in main]
    unseen = [_unseen(record, settings, name) for name in record.n_adapters]
    tables = [
        *main,
        *(one for one in unseen if one.rows),
        *([_versus(record)] if record.versus else []),
        *([_seeds(record, settings)] if len(record.seeds) > 1 else []),
        *group_tables(record, settings.rivals),
        *([spectra_table(record, gap)] if record.spectra else []),
        *([quality_table(record)] if record.quality else []),
        *([_left_out(record)] if record.left_out else []),
    ]
    return ExperimentPage(
        title=settings.title,
        question=settings.question,
        answer=answer(record, settings.about, gap),
        tables=tables,
        limits=[*settings.beside, *_limits(record, settings)],
        how=[_rows_sentence(record, settings), *how],
        results=to_json(record),
        command=command,
        pictures=pictures,
        alt=alt,
    )


def main_table(record: ExperimentRecord, settings: MergesSettings) -> tuple[list[str], list[list[str]]]:
    """Every library and contestant, for a terminal: the lowest loss first."""
    header = ["library", *_header(settings)]
    rows = [[name, *row] for name in record.n_adapters for row in _rows(record, settings, name, REPORT)]
    return header, rows


def _main(record: ExperimentRecord, settings: MergesSettings, library: str, *, first: bool) -> PageTable:
    numbers = sorted(set(record.n_adapters[library]))
    adapters = f"{listing([str(n) for n in numbers])} adapters"
    return PageTable(
        header=_header(settings),
        rows=_rows(record, settings, library, REPORT),
        heading=f"{library}: {adapters}",
        legend=_legend(record, settings) if first else (),
    )


def _without_heading(one: PageTable) -> PageTable:
    return PageTable(one.header, one.rows, legend=one.legend)


def _unseen(record: ExperimentRecord, settings: MergesSettings, library: str) -> PageTable:
    header = ["contestant", "loss", *(f"less {rival}" for rival in settings.rivals)]
    rows = [
        [one.contestant, loss(one.loss[HELD_OUT]), *_lesses(one, settings.rivals, HELD_OUT)]
        for one in _sorted(record, library, HELD_OUT)
    ]
    return PageTable(header, rows, heading=f"Unseen task families, {library}")


def _header(settings: MergesSettings) -> list[str]:
    gap = [f"gap closed, {settings.gap.start} to {settings.gap.end}"] if settings.gap else []
    match = ["exact match"] if settings.exact_match.rows else []
    fixed = ["contestant", "rank", "scale", "loss"]
    return [*fixed, *(f"less {rival}" for rival in settings.rivals), *gap, *match, "norm", "cosine"]


def _rows(record: ExperimentRecord, settings: MergesSettings, library: str, fold: str) -> list[list[str]]:
    return [
        [
            one.contestant,
            NONE if one.rank is None else str(one.rank),
            _scales(one),
            loss(one.loss[fold]),
            *_lesses(one, settings.rivals, fold),
            *([share(one.gap_closed.get(fold))] if settings.gap else []),
            *([share(one.exact_match)] if settings.exact_match.rows else []),
            number(one.norm_to_mean, 2),
            number(one.cosine_to_mean, 2),
        ]
        for one in _sorted(record, library, fold)
    ]


def _sorted(record: ExperimentRecord, library: str, fold: str) -> list[PooledFigures]:
    mine = [one for one in record.pooled if one.library == library and fold in one.loss]
    return sorted(mine, key=lambda one: (one.loss[fold].value, one.contestant))


def _scales(one: PooledFigures) -> str:
    shown = listing([f"{scale:.3g}" for scale in dict.fromkeys(one.scales)])
    return f"{shown}*" if one.scale_at_end else shown


def _lesses(one: PooledFigures, rivals: Sequence[str], fold: str) -> list[str]:
    return [_less(one.less.get(rival), fold) for rival in rivals]


def _less(contrasts: Mapping[str, Contrast] | None, fold: str) -> str:
    if not contrasts or fold not in contrasts:
        return NONE
    return f"{signed(contrasts[fold])} {verdict(contrasts[fold])}"


def _legend(record: ExperimentRecord, settings: MergesSettings) -> list[str]:
    grid = ", ".join(f"{scale:g}" for scale in settings.scales.grid)
    end = f", then {settings.scales.steps} steps in between" if settings.scales.steps else ""
    seeds = "seeds, then rows," if len(record.seeds) > 1 else "rows"
    chosen = {name for name, one in settings.entries.items() if one.chosen_scale is None}
    fixed = [name for name in settings.entries if name not in chosen]
    gap = settings.gap
    return [
        "Loss in nats per response token, lower is better; in brackets 95 % bootstrap intervals that resample "
        f"{seeds} ({count(settings.n_bootstrap)} draws); differences are on the same rows.",
        "Better and worse: Holm's corrected p below 0.05 over the contestants compared with that rival in the table. "
        "Equal: within 0.0005.",
        f"Scale: for each seed the lowest loss on other rows among {grid}{end}; * where that was at the end of what "
        f"was tried. {f'Not chosen, as given: {listing(fixed)}.' if fixed else ''}",
        *([f"Gap closed: (loss of {gap.start} - loss) / (loss of {gap.start} - loss of {gap.end})."] if gap else []),
        "Norm: of the scaled update, over that of the plain mean at scale 1; cosine: with that mean, all modules as "
        "one vector; both in the mean over seeds.",
        *_cut_legend(record, settings),
    ]


def _cut_legend(record: ExperimentRecord, settings: MergesSettings) -> list[str]:
    """What the cut to an output rank means, and what it cost at most."""
    cut = [name for name, one in settings.entries.items() if one.output_rank is not None]
    lost = {
        name: max(errors)
        for name in cut
        if (errors := [c.cut_error for c in record.cells if c.contestant == name and c.cut_error is not None])
    }
    if not cut:
        return []
    told = listing([f"{name} {100 * error:.0f}%" for name, error in lost.items()]) or "none of them"
    return [
        "Output rank: what a method returns is cut to the rank by an SVD of each module, the best approximation there "
        f"is. Share of the norm lost in the worst module: {told}."
    ]


def _seeds(record: ExperimentRecord, settings: MergesSettings) -> PageTable:
    """The difference to the first rival, seed by seed."""
    rival = settings.rivals[0] if settings.rivals else None
    names = dict.fromkeys((cell.library, cell.contestant) for cell in record.cells)
    rows = []
    for library, contestant in names:
        mine = {c.seed: c for c in record.cells if (c.library, c.contestant) == (library, contestant)}
        found = [mine[seed].less.get(rival or "", {}).get(REPORT) if seed in mine else None for seed in record.seeds]
        if any(found):
            rows.append([library, contestant, *(NONE if one is None else _signed(one) for one in found)])
    header = ["library", "contestant", *(f"seed {seed}" for seed in record.seeds)]
    return PageTable(header, rows, heading=f"Seed by seed: less {rival}" if rival else "Seed by seed")


def _versus(record: ExperimentRecord) -> PageTable:
    """What the experiment is about, against every other contestant; the strongest rivals first."""
    folds = list(record.versus[0].less)
    rows = [
        [one.library, one.contestant, one.other, *(_less(one.less, fold) for fold in folds)]
        for one in sorted(record.versus, key=lambda one: (one.library, one.contestant, -one.less[REPORT].value))
    ]
    header = ["library", "contestant", "against", *("seen tasks" if fold == REPORT else "unseen" for fold in folds)]
    before = "The contestant's loss less the other's, with Holm's correction over all others of one block."
    return PageTable(header, rows, heading="Against every other contestant", before=before)


def _signed(score: Score) -> str:
    return f"{score.value:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"


def _left_out(record: ExperimentRecord) -> PageTable:
    rows = [[one.library, str(one.seed), one.contestant, one.why] for one in record.left_out]
    return PageTable(["library", "seed", "contestant", "why"], rows, heading="Left out")


def _rows_sentence(record: ExperimentRecord, settings: MergesSettings) -> str:
    first = next(iter(record.rows.values()))
    unseen = f", and {count(first[HELD_OUT])} rows of task families that no adapter saw" if HELD_OUT in first else ""
    return (
        f"Rows over all seeds: scales chosen on {count(first['choose'])} dev rows, figures of {count(first[REPORT])} "
        f"others{unseen}. Which of the two a dev row is for, a hash of its text says, for every library and seed alike."
    )


def _limits(record: ExperimentRecord, settings: MergesSettings) -> list[str]:
    """What follows from the record alone; the file may add sentences of its own."""
    ends = sorted({one.contestant for one in record.pooled if one.scale_at_end})
    unseen = any(HELD_OUT in rows for rows in record.rows.values())
    match = settings.exact_match
    limits = [
        _ONE_SEED if len(record.seeds) == 1 else _FEW_SEEDS.format(len(record.seeds)),
        f"The base ({record.base}) has {record.n_parameters / 1e6:.1f} million parameters; nothing here speaks for one "
        "of a useful size.",
        f"Exact match is of {match.rows} rows a seed, answered greedily within {match.max_new_tokens} tokens."
        if match.rows
        else "Loss is not accuracy: a lower loss of the right answers need not make more answers right.",
        "Methods stand at the parameters of the file; no density, inner rule or learning rate was tuned.",
    ]
    limits += [] if unseen else ["All rows are of tasks that were trained on; unseen tasks were not scored."]
    limits += [_AT_END.format(listing(ends))] if ends else []
    return limits


_ONE_SEED = "One seed: another training run may move every figure by more than the intervals say."
_FEW_SEEDS = "{} seeds: resampling so few shows too little of what another seed would do."
_AT_END = "The best scale was at the end of what was tried for {}: a better one may lie beyond."
