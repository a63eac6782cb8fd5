"""Multiple choice by log-likelihood: what is put to the model, and which choice wins.

In: a `ChoiceSet`; then the log-likelihood of each choice. Out: one token row per choice, item by item; booleans.

Two ways to ask. By template: the instruction is context and question, the response is the choice with its end token,
exactly as in training, so the figure is the likelihood of the choice as a whole answer. By blank, where every question
of the set holds one `_` standing alone (WinoGrande): the choice fills the blank in plain text and only the text after
the blank is scored (partial scoring). The set decides and not the item, so one stray underscore changes nothing.
"""

import re
from collections.abc import Sequence

import numpy as np

from tclora.data import ChoiceItem, Example
from tclora.errors import ConfigError
from tclora.evaluation.contestants import ChoiceSet
from tclora.models import Base, Tokens, tokenize_example, tokenize_pair
from tclora.shapes import Bool, Float, Int

__all__ = ["chance_accuracy", "choice_rows", "has_blanks", "right_choices"]

_BLANK = re.compile(r"(?<!\w)_(?!\w)")


def has_blanks(items: Sequence[ChoiceItem]) -> bool:
    """Say whether every question of the set holds exactly one blank, so that it is scored by what follows it."""
    return bool(items) and all(len(_BLANK.findall(item.question)) == 1 for item in items)


def choice_rows(base: Base, choice_set: ChoiceSet) -> list[Tokens]:
    """Tokenize every choice of every item, items in order and choices in order within them.

    Raises:
        ConfigError: a blank stands at the end of a question, so there is no text to score; names set and item.
    """
    ask = _blank_row if has_blanks(choice_set.items) else _template_row
    return [
        ask(base, item, choice, where=f"choice set {choice_set.name}, item {item.id}")
        for item in choice_set.items
        for choice in item.choices
    ]


def right_choices(
    choice_set: ChoiceSet, log_likelihood: Float[np.ndarray, " n_rows"], n_tokens: Int[np.ndarray, " n_rows"]
) -> Bool[np.ndarray, " n_items"]:
    """Say for each item whether the likeliest choice is the right one; ties go to the lower index."""
    size = _sizes(choice_set, n_tokens)
    right, start = [], 0
    for item in choice_set.items:
        stop = start + len(item.choices)
        right.append(int(np.argmax(log_likelihood[start:stop] / size[start:stop])) == item.answer)
        start = stop
    return np.array(right, dtype=bool)


def chance_accuracy(items: Sequence[ChoiceItem]) -> float:
    """The share of right answers expected of a uniform guess: the mean of 1 over the number of choices."""
    return float(np.mean([1 / len(item.choices) for item in items]))


def _sizes(choice_set: ChoiceSet, n_tokens: Int[np.ndarray, " n_rows"]) -> Float[np.ndarray, " n_rows"]:
    if choice_set.normalize == "none" or has_blanks(choice_set.items):
        # After a blank every choice scores the same text, so there is no length to make up for.
        return np.ones(len(n_tokens))
    if choice_set.normalize == "tokens":
        return n_tokens.astype(np.float64)
    sizes = [max(1, len(choice.encode())) for item in choice_set.items for choice in item.choices]
    return np.array(sizes, dtype=np.float64)


def _template_row(base: Base, item: ChoiceItem, choice: str, *, where: str) -> Tokens:
    question = f"{item.context}\n{item.question}" if item.context else item.question
    return tokenize_example(base, Example(instruction=question, output=choice, task=item.task))


def _blank_row(base: Base, item: ChoiceItem, choice: str, *, where: str) -> Tokens:
    before, after = _BLANK.split(item.question)
    if not after.strip():
        raise ConfigError(
            "nothing follows the blank, so no text can be scored", where=where, found=item.question, do="drop the item"
        )
    lead = f"{item.context}\n{before}{choice}" if item.context else before + choice
    return tokenize_pair(base, lead, after)
