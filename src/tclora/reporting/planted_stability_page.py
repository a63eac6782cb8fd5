"""What the page of planted adapters says of CP: how far its result depends on starts, sweeps, noise and terms.

In: a `PlantedRecord` with stability figures. Out: a sentence by rule, and a table. Refused: nothing.
"""

from tclora.config.experiment_planted import StabilityConfig
from tclora.records.testbeds import PlantedRecord, StabilityFigures
from tclora.reporting.experiment_page import PageTable
from tclora.reporting.wording import count, number, percent

__all__ = ["stability_sentence", "stability_table"]

_FOUND = 0.95
"""A mean factor match from which the planted terms count as found."""


def stability_sentence(record: PlantedRecord) -> str:
    """One sentence: up to which noise the planted terms are found, and how many starts reach the best fit."""
    longest = max(one.sweeps for one in record.stability)
    planted = _planted_rank(record)
    mine = sorted((one for one in record.stability if one.sweeps == longest), key=lambda one: one.noise)
    own = [one for one in mine if one.cp_rank == planted] or mine
    found = [one for one in own if one.match >= _FOUND]
    upto = f"up to noise {max(one.noise for one in found):g}" if found else "at no noise that was tried"
    near = sum(one.share_near for one in own) / len(own)
    last = own[-1]
    return (
        f"CP of {own[0].cp_rank} terms finds the planted ones (factor match {_FOUND:g} or more) {upto}, "
        f"{percent(near)} of single starts end as good as the best after {count(longest)} sweeps, and at noise "
        f"{last.noise:g} the match is {number(last.match)}."
    )


def stability_table(record: PlantedRecord, config: StabilityConfig) -> PageTable:
    """One row for each noise, number of terms and sweeps."""
    header = ["noise", "terms", "sweeps", "error", "spread of starts", "starts near the best", "match", "lowest match"]
    header += ["match of single starts"]
    one = config.adapters
    return PageTable(
        header,
        [_row(figures) for figures in record.stability],
        heading="CP stability",
        before=f"{one.n_adapters} adapters with {one.n_shared} shared and {one.rank - one.n_shared} private directions "
        f"each; {record.stability[0].n_models} models a row, each from {config.n_starts + 2} starts.",
        legend=(
            "Error: of the solver's choice among its starts against the adapters, noise included. Spread: the worst "
            "start's error less the best's, in the mean over models. Near the best: within "
            f"{config.near:g} of its model's best error.",
            "Match: the mean over planted terms of the product of cosines with the fitted term they are paired with, "
            "over the best pairing; with fewer terms than planted ones it cannot reach 1.",
        ),
    )


def _planted_rank(record: PlantedRecord) -> int:
    stability = record.settings["stability"]
    adapters = stability["adapters"] if isinstance(stability, dict) else {}
    return int(adapters.get("n_shared", 0))


def _row(one: StabilityFigures) -> list[str]:
    return [
        f"{one.noise:g}",
        str(one.cp_rank),
        str(one.sweeps),
        number(one.error, 4),
        number(one.error_spread, 4),
        percent(one.share_near),
        number(one.match),
        number(one.match_lowest),
        number(one.match_starts),
    ]
