"""What the model is asked: flat lists of tokenized rows, each with the cluster that would answer it.

In: a base and the development and choice sets. Out: one `RowSet` for the loss, one for generated answers, one per
choice set. A row's result is `(nats, n_tokens)` or a generated answer; everything above this file is arithmetic on
such results. Refused: losses that are not finite.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tclora.config import EvaluateConfig
from tclora.data import Example
from tclora.errors import DataError, NumericalError
from tclora.evaluation.choices import choice_rows
from tclora.evaluation.contestants import ChoiceSet, DevSet, Routes
from tclora.evaluation.matching import choose_examples
from tclora.models import Base, Tokens, greedy_answers, response_losses, tokenize_example, tokenize_prompt

__all__ = ["ANSWERS", "LOSS", "Row", "RowSet", "build_row_sets", "choice_row_name", "score_rows"]

LOSS = "dev loss"
ANSWERS = "dev answers"

Row = tuple[float, int] | str


@dataclass(frozen=True)
class RowSet:
    """Rows of one item set. `max_new_tokens` is 0 where likelihood is asked for and not an answer."""

    name: str
    tokens: tuple[Tokens, ...]
    clusters: tuple[int, ...]
    max_new_tokens: int = 0
    routes: Routes = field(default_factory=dict)

    def groups(self, route: str | None) -> tuple[int, ...]:
        """Each row's group in the assignment of this name; None: its cluster."""
        return self.clusters if route is None else self.routes[route]


def build_row_sets(
    base: Base, dev: DevSet, choices: Sequence[ChoiceSet], config: EvaluateConfig, *, seed: int
) -> tuple[dict[str, RowSet], list[int]]:
    """Tokenize everything once, for all contestants.

    Returns:
        row sets by name; the indices of the development examples whose answer is generated.
    """
    sets, asked = [], []
    if dev.examples:
        sets.append(_dev_rows(LOSS, dev, range(len(dev.examples)), lambda example: tokenize_example(base, example)))
    if dev.examples and config.exact_match:
        keys = [example.key for example in dev.examples]
        asked = choose_examples(keys, dev.clusters, config.max_exact_match, seed=seed)
        prompts = _dev_rows(ANSWERS, dev, asked, lambda example: tokenize_prompt(base, example))
        sets.append(RowSet(ANSWERS, prompts.tokens, prompts.clusters, config.max_new_tokens, prompts.routes))
    for choice_set in choices:
        routes = {name: _by_row(choice_set, groups) for name, groups in choice_set.routes.items()}
        tokens = tuple(choice_rows(base, choice_set))
        clusters = _by_row(choice_set, choice_set.clusters)
        sets.append(RowSet(choice_row_name(choice_set), tokens, clusters, routes=routes))
    return {row_set.name: row_set for row_set in sets}, asked


def choice_row_name(choice_set: ChoiceSet) -> str:
    """The name of a choice set's rows, which no development set can have."""
    return f"choice {choice_set.name}"


def score_rows(base: Base, row_set: RowSet, wanted: Sequence[int], *, batch_size: int) -> list[Row]:
    """Ask the model as it stands, with whatever adapter is attached, for the wanted rows.

    Raises:
        DataError: a row has no response token.
        NumericalError: a loss is NaN or infinite; names the set and the row.
    """
    tokens = [row_set.tokens[i] for i in wanted]
    if row_set.max_new_tokens:
        return list(greedy_answers(base, tokens, max_new_tokens=row_set.max_new_tokens, batch_size=batch_size))
    nats, n_tokens = response_losses(base, tokens, batch_size=batch_size)
    for i, loss, count in zip(wanted, nats, n_tokens, strict=True):
        _check_loss(f"{row_set.name}, row {i}", float(loss), int(count))
    return [(float(loss), int(count)) for loss, count in zip(nats, n_tokens, strict=True)]


def _check_loss(where: str, loss: float, n_tokens: int) -> None:
    if n_tokens < 1:
        raise DataError("a row has no response token to score", where=where, do="drop examples with an empty output")
    if not math.isfinite(loss):
        do = "check the adapter, or evaluate in float32 or bfloat16"
        raise NumericalError("a loss is not finite", where=where, found=loss, expected="a number", do=do)


def _dev_rows(name: str, dev: DevSet, indices: Sequence[int], tokenize: Callable[[Example], Tokens]) -> RowSet:
    tokens = tuple(tokenize(dev.examples[i]) for i in indices)
    routes = {route: tuple(groups[i] for i in indices) for route, groups in dev.routes.items()}
    return RowSet(name, tokens, tuple(dev.clusters[i] for i in indices), routes=routes)


def _by_row(choice_set: ChoiceSet, groups: Sequence[int]) -> tuple[int, ...]:
    """Each item's group, once for each of its choices."""
    return tuple(group for group, item in zip(groups, choice_set.items, strict=True) for _ in item.choices)
