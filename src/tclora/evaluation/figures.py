"""From a contestant's per-row results to its record.

In: the request and, by row-set name, one result per row. Out: `ContestantRecord`. A figure over no items is left
out: it has no value, and 0 would be one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.evaluation.choices import right_choices
from tclora.evaluation.contestants import ChoiceSet, Contestant, DevSet
from tclora.evaluation.matching import is_exact_match
from tclora.evaluation.rows import ANSWERS, LOSS, Row, choice_row_name
from tclora.evaluation.statistics import accuracy, mean_loss, paired_difference
from tclora.records import ContestantRecord, PairedRecord, Score
from tclora.shapes import Bool, Float, Int

__all__ = ["Request", "contestant_record", "paired_record"]


@dataclass(frozen=True)
class Request:
    """What was asked of every contestant. `asked` indexes the development examples whose answer was generated."""

    dev: DevSet
    choices: Sequence[ChoiceSet]
    asked: Sequence[int]
    cluster_names: Sequence[str]
    n_bootstrap: int
    seed: int


def contestant_record(
    contestant: Contestant, rows: Mapping[str, Sequence[Row]], request: Request, *, rank: int | None
) -> ContestantRecord:
    """Turn a contestant's results into figures, overall and by cluster."""
    loss, loss_by_cluster = _losses(rows.get(LOSS, ()), request)
    match, match_by_cluster = _matches(rows.get(ANSWERS, ()), request)
    return ContestantRecord(
        name=contestant.name,
        kind=contestant.kind,
        loss=loss,
        loss_by_cluster=loss_by_cluster,
        exact_match=match,
        exact_match_by_cluster=match_by_cluster,
        choice_accuracy={c.name: _choice_score(c, rows[choice_row_name(c)]) for c in request.choices},
        rank=rank,
        n_adapters=len(contestant.folders),
    )


def paired_record(pair: tuple[str, str], first: Sequence[Row], second: Sequence[Row], request: Request) -> PairedRecord:
    """Compare two contestants by their losses on the same development examples, overall and by cluster."""
    nats, n_tokens = _columns(first)
    other, _ = _columns(second)

    def difference(mine: Bool[np.ndarray, " n"]) -> Score:
        return paired_difference(
            nats[mine], other[mine], n_tokens[mine], n_bootstrap=request.n_bootstrap, seed=request.seed
        )

    clusters = np.array(request.dev.clusters)
    by_cluster = {name: clusters == index for index, name in enumerate(request.cluster_names)}
    return PairedRecord(
        first=pair[0],
        second=pair[1],
        loss=difference(np.ones(len(nats), dtype=bool)),
        loss_by_cluster={name: difference(mine) for name, mine in by_cluster.items() if mine.any()},
    )


def _losses(rows: Sequence[Row], request: Request) -> tuple[Score | None, dict[str, Score]]:
    if not rows:
        return None, {}
    nats, n_tokens = _columns(rows)
    by_cluster = {}
    for index, name in enumerate(request.cluster_names):
        mine = np.array(request.dev.clusters) == index
        if mine.any():
            by_cluster[name] = _mean_loss(nats[mine], n_tokens[mine], request)
    return _mean_loss(nats, n_tokens, request), by_cluster


def _mean_loss(nats: Float[np.ndarray, " n"], n_tokens: Int[np.ndarray, " n"], request: Request) -> Score:
    return mean_loss(nats, n_tokens, n_bootstrap=request.n_bootstrap, seed=request.seed)


def _matches(rows: Sequence[Row], request: Request) -> tuple[Score | None, dict[str, Score]]:
    right: dict[int, list[bool]] = {}
    for i, answer in zip(request.asked, rows, strict=True):
        match = is_exact_match(str(answer), request.dev.examples[i].output)
        right.setdefault(request.dev.clusters[i], []).append(match)
    if not right:
        return None, {}
    by_cluster = {request.cluster_names[c]: accuracy(sum(right[c]), len(right[c])) for c in sorted(right)}
    return accuracy(sum(map(sum, right.values())), sum(map(len, right.values()))), by_cluster


def _choice_score(choice_set: ChoiceSet, rows: Sequence[Row]) -> Score:
    nats, n_tokens = _columns(rows)
    right = right_choices(choice_set, -nats, n_tokens)
    return accuracy(int(right.sum()), len(right))


def _columns(rows: Sequence[Row]) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    pairs = [row for row in rows if not isinstance(row, str)]
    return np.array([nats for nats, _ in pairs], dtype=np.float64), np.array([n for _, n in pairs], dtype=np.int64)
