"""The answer of an experiment of kind `merges` in two sentences, made from its figures alone.

In: an `ExperimentRecord` and the names it is about. Out: text. The rule knows no method by name: the first sentence
says which merge has the lowest loss and how much of the gap it closes, the second how those that the experiment is
about compare with their rivals. "Told apart" is Holm's corrected p below 0.05 and an interval without 0.
"""

from collections.abc import Sequence

from tclora.records.experiment import Contrast, ExperimentRecord, PooledFigures
from tclora.reporting.wording import count, listing, number

__all__ = ["LEVEL", "answer", "signed", "verdict"]

LEVEL = 0.05
REPORT = "report"
_SPOKEN = 6


def answer(record: ExperimentRecord, about: Sequence[str], gap: tuple[str, str] | None) -> str:
    """Two sentences."""
    merges = [one for one in record.pooled if one.kind == "merge" and REPORT in one.loss]
    if not merges:
        return "No merge was scored. So there is no answer."
    return f"{_best_sentence(record, merges, gap)} {_about_sentence(merges, about)}"


def verdict(contrast: Contrast) -> str:
    """What a difference of losses says, once the other comparisons are taken into account."""
    if contrast.low == contrast.high == 0 or round(contrast.low, 3) == round(contrast.high, 3) == 0:
        return "equal"
    p = contrast.p if contrast.p_holm is None else contrast.p_holm
    if p < LEVEL and contrast.high < 0:
        return "better"
    return "worse" if p < LEVEL and contrast.low > 0 else "not told apart"


def signed(contrast: Contrast) -> str:
    """A difference with its interval."""
    return f"{contrast.value:+.3f} [{contrast.low:+.3f}, {contrast.high:+.3f}]"


def _best_sentence(record: ExperimentRecord, merges: Sequence[PooledFigures], gap: tuple[str, str] | None) -> str:
    libraries = list(dict.fromkeys(one.library for one in merges))
    told = []
    for library in libraries:
        mine = [one for one in merges if one.library == library]
        best = min(mine, key=lambda one: (one.loss[REPORT].value, one.contestant))
        share = best.gap_closed.get(REPORT)
        closes = f", which closes {_share(share)} of the gap from {gap[0]} to {gap[1]}" if share and gap else ""
        where = f" in {library}" if len(libraries) > 1 else ""
        told.append(f"{best.contestant}{where} ({number(best.loss[REPORT].value)}{closes})")
    n = count(record.rows[libraries[0]][REPORT])
    seeds = f"{len(record.seeds)} seeds" if len(record.seeds) > 1 else "one seed"
    return (
        f"Over {seeds} and {n} rows that chose nothing, each contestant at a scale chosen on other rows, the lowest "
        f"loss of a merge, in nats per response token, is that of {listing(told)}."
    )


def _about_sentence(merges: Sequence[PooledFigures], about: Sequence[str]) -> str:
    ours = [one for one in merges if one.contestant in about or one.series in about]
    told = [
        f"{_name(one, merges)} less {rival} is {signed(contrasts[REPORT])} ({verdict(contrasts[REPORT])})"
        for one in ours
        for rival, contrasts in one.less.items()
        if REPORT in contrasts
    ]
    if not told:
        return "No comparison was asked for."
    more = len(told) - _SPOKEN
    spoken = told if more <= 0 else [*told[:_SPOKEN], f"{more} more comparisons are in the table"]
    return f"On the same rows, {listing(spoken)}."


def _name(one: PooledFigures, merges: Sequence[PooledFigures]) -> str:
    several = len({merge.library for merge in merges}) > 1
    return f"{one.contestant} of {one.library}" if several else one.contestant


def _share(score) -> str:
    return f"{100 * score.value:.0f}% [{100 * score.low:.0f}, {100 * score.high:.0f}]"
