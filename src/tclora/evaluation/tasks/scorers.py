"""How one answer is scored, by kind of task; each function gives the item's value of each metric.

In: an item with its gold (a `ChoiceGold`, a tuple of texts that are each right, a number, or nothing) and the engine's
answer. Out: figures by metric. Refused: an answer of the other kind, another number of likelihoods than of choices, and
likelihoods that are not finite.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.errors import NumericalError, ShapeError
from tclora.evaluation.matching import is_exact_match
from tclora.evaluation.tasks.numbers import EXACT_TOLERANCE, RELATIVE_TOLERANCE, agree, last_number
from tclora.evaluation.tasks.rouge import rouge_l
from tclora.evaluation.tasks.task import Answer, Generation, Item, Likelihoods

__all__ = [
    "CHOICE_METRICS",
    "LOSS_METRICS",
    "NUMERIC_METRICS",
    "ChoiceGold",
    "generated_text",
    "numeric_figures",
    "score_choice",
    "score_exact",
    "score_loss",
    "score_numeric",
    "score_rouge",
]

CHOICE_METRICS = ("acc", "acc_norm", "acc_token")
"""The likeliest choice; the likeliest per character, which is lm-eval's acc_norm; the likeliest per token."""
NUMERIC_METRICS = ("numeric_exact", "numeric")
"""The last number is the right one; it is within a relative 1e-3 of it."""
LOSS_METRICS = ("loss", "nats")
"""Nats per token of the answer, each example counting the same; nats per answer, so that long ones weigh more."""


@dataclass(frozen=True)
class ChoiceGold:
    """The choices of an item and the index of the right one."""

    choices: tuple[str, ...]
    answer: int


def score_choice(item: Item, answer: Answer) -> Mapping[str, float]:
    """Whether the right choice is the likeliest, plainly and by length; ties go to the lower index, as in lm-eval."""
    gold = item.gold
    if not isinstance(gold, ChoiceGold):
        raise ShapeError("an item of a choice task has no choices", where=item.id)
    found = _likelihoods(item, answer, len(gold.choices))
    sums = np.array(found.sums)
    sizes = ([1] * len(gold.choices), [len(choice) for choice in gold.choices], found.n_tokens)
    picks = (int(np.argmax(sums / np.maximum(1, size))) for size in sizes)
    return {metric: float(pick == gold.answer) for metric, pick in zip(CHOICE_METRICS, picks, strict=True)}


def score_exact(item: Item, answer: Answer) -> Mapping[str, float]:
    """Whether the text equals one of the right ones after `normalize_answer`."""
    text = generated_text(item, answer)
    return {"exact_match": float(any(is_exact_match(text, right) for right in _texts(item)))}


def score_rouge(item: Item, answer: Answer) -> Mapping[str, float]:
    """ROUGE-L against the nearest of the references, and exact match beside it."""
    text = generated_text(item, answer)
    return {"rouge_l": max(rouge_l(text, right) for right in _texts(item)), **score_exact(item, answer)}


def score_numeric(item: Item, answer: Answer) -> Mapping[str, float]:
    """Whether the number that the text ends with is right: the one behind the first `####`, else the last of all."""
    text = generated_text(item, answer)
    _, marked, rest = text.partition("####")
    return numeric_figures(item, last_number(rest.strip().split("\n")[0] if marked else text))


def numeric_figures(item: Item, number: float | None) -> Mapping[str, float]:
    """The two numeric metrics of a number that was found, or was not."""
    gold = item.gold
    if not isinstance(gold, float):
        raise ShapeError("an item of a numeric task has no number", where=item.id, found=type(gold).__name__)
    tolerances = (EXACT_TOLERANCE, RELATIVE_TOLERANCE)
    pairs = zip(NUMERIC_METRICS, tolerances, strict=True)
    return {metric: float(agree(number, gold, tolerance)) for metric, tolerance in pairs}


def score_loss(item: Item, answer: Answer) -> Mapping[str, float]:
    """The negative log-likelihood of the item's own answer."""
    found = _likelihoods(item, answer, 1)
    if found.n_tokens[0] < 1:
        raise ShapeError("an answer has no token to score", where=item.id, do="drop examples with an empty answer")
    return {"loss": -found.sums[0] / found.n_tokens[0], "nats": -found.sums[0]}


def generated_text(item: Item, answer: Answer) -> str:
    """The generated text before the first of the item's stop texts."""
    if not isinstance(answer, str) or not isinstance(item.ask, Generation):
        raise ShapeError("a generated text was expected", where=item.id, found=type(answer).__name__)
    cuts = [at for stop in item.ask.stop if (at := answer.find(stop)) >= 0]
    return answer[: min(cuts)] if cuts else answer


def _texts(item: Item) -> Sequence[str]:
    if not isinstance(item.gold, tuple) or not item.gold:
        raise ShapeError("an item has no right answer", where=item.id)
    return item.gold


def _likelihoods(item: Item, answer: Answer, n: int) -> Likelihoods:
    if not isinstance(answer, Likelihoods) or not len(answer.sums) == len(answer.n_tokens) == n:
        found = f"{len(answer.sums)} of them" if isinstance(answer, Likelihoods) else type(answer).__name__
        raise ShapeError("log-likelihoods were expected", where=item.id, found=found, expected=f"{n}, one a choice")
    if not all(math.isfinite(value) for value in answer.sums):
        do = "check the adapter, or evaluate in float32 or bfloat16"
        raise NumericalError("a log-likelihood is not finite", where=item.id, found=answer.sums, do=do)
    return answer
