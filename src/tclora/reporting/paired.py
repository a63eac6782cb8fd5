"""Contestants compared on the same examples: tables, and sentences made from the figures alone.

In: a `RunReport` whose evaluation compared pairs. Out: tables of plain text and sentences; empty where nothing was
compared. A difference is the first's loss less the second's; its interval comes from examples resampled for both
together, so that what makes an example hard for both cancels.
"""

from tclora.records import PairedRecord, Score
from tclora.reporting.run_report import RunReport
from tclora.reporting.tables import Table
from tclora.reporting.wording import NONE, count, loss, number

__all__ = ["PAIRED_NOTE", "paired_cluster_table", "paired_sentences", "paired_table"]

PAIRED_NOTE = (
    "The first's loss less the second's on the same development examples, in nats per response token, with 95 % "
    "bootstrap percentiles of the difference; negative where the first is better. Each comparison stands alone: of "
    "twenty between equals, one interval would leave out 0 by chance."
)


def paired_table(report: RunReport) -> Table:
    """Every compared pair: the difference of the losses, and whether its interval leaves out 0."""
    header = ["first", "second", f"difference (n={count(report.evaluation.n_dev)})", "lower"]
    rows = [[pair.first, pair.second, loss(pair.loss), _lower(pair)] for pair in report.evaluation.paired]
    return header, rows


def paired_cluster_table(report: RunReport) -> Table:
    """The pairs of routed libraries by cluster, with intervals; the other pairs are in `report.json`."""
    pairs = _routed_pairs(report)
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes |= {name: score.n for name, score in pair.loss_by_cluster.items()}
    header = ["first", "second", *[f"{name} (n={count(n)})" for name, n in sizes.items()]]
    rows = [[pair.first, pair.second, *[loss(pair.loss_by_cluster.get(name)) for name in sizes]] for pair in pairs]
    return header, rows


def paired_sentences(report: RunReport) -> list[str]:
    """One sentence for each comparison of the routed library: what its clusters are worth."""
    return [_sentence(pair) for pair in _routed_pairs(report)]


def _routed_pairs(report: RunReport) -> list[PairedRecord]:
    routed = {contestant.name for contestant in report.evaluation.contestants if contestant.kind == "routed"}
    return [pair for pair in report.evaluation.paired if pair.first in routed]


def _sentence(pair: PairedRecord) -> str:
    score = pair.loss
    amount = (
        "level with" if score.value == 0 else f"{number(abs(score.value))} {'below' if score.value < 0 else 'above'}"
    )
    ends = f"[{number(score.low)}, {number(score.high)}]"
    verdict = "includes" if _holds_zero(score) else "leaves out"
    return (
        f"On the same {count(score.n)} examples {pair.first} is {amount} {pair.second}; the 95 % interval of the "
        f"difference, {ends}, {verdict} 0."
    )


def _lower(pair: PairedRecord) -> str:
    if _holds_zero(pair.loss):
        return NONE
    return "first" if pair.loss.value < 0 else "second"


def _holds_zero(score: Score) -> bool:
    return score.low <= 0 <= score.high
