"""Rows of the skills: content alone, format alone, both at once; train, dev and test with no question in common.

In: names of skills, a level, a split, a number and a seed. Out: `SkillRow`s. A question belongs to one split by a hash
of its text, whatever the seed, so no test question is ever trained on, alone or jointly. Format rows repeat a given
word; where asked, a format is also learned on questions of other contents, and a content in other formats. The joint
questions alone ask for that content in that format. Refused: pairs that do not fit (number words for answers that are
no numbers), and more rows than a skill has questions.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tclora.errors import ConfigError
from tclora.testbeds.answer_formats import FORMATS, PLAIN
from tclora.testbeds.contents import CONTENTS, Question, draw_question
from tclora.testbeds.words import NAMES, THINGS

__all__ = ["SkillRow", "Split", "check_pair", "content_rows", "format_rows", "joint_rows"]

Split = Literal["train", "dev", "test"]

_ECHOES = (
    "Say {}.", "Repeat: {}.", "Write {}.", "Copy this: {}.", "The answer is {}.", "Just say {}.",
    "Please repeat {}.", "Give back {}.", "Echo {}.", "Say again: {}.", "I say {}. What do I say?", "Type {}.",
)  # fmt: skip
_ECHO_KINDS: tuple[str, ...] = ("thing", "name", "number", "numbers")
_LARGEST_NUMBER = 20
_PATIENCE = 1000
"""Draws in a row without a new question, and as many as 20 times those found, before a skill counts as exhausted."""
_SPLITS: tuple[Split, ...] = ("test", "test", "dev", "train", "train", "train", "train", "train", "train", "train")
"""By the hash of a question's text: a fifth for the test, a tenth for dev."""


@dataclass(frozen=True)
class SkillRow:
    """A prompt, what is to be answered, and the plain answer behind it; `format` is empty where none is asked for."""

    prompt: str
    output: str
    answer: str
    content: str
    format: str


def check_pair(content: str, format: str) -> None:
    """Refuse a content and a format that do not fit, or that do not exist.

    Raises:
        UnknownNameError: names the nearest.
        ConfigError: the format writes numbers only, and the content's answers are something else.
    """
    kind = CONTENTS.entry(content).facts["kind"]
    if kind not in FORMATS[format].takes:
        raise ConfigError(
            "this content skill does not go with this format skill",
            where=f"{content} with {format}",
            found=f"answers of {content} are of the kind '{kind}'",
            expected="answers of the kind " + " or ".join(sorted(FORMATS[format].takes)),
            do="pair the format with another content skill",
        )


def content_rows(
    content: str, *, level: int, split: Split, n: int, seed: int, formats: Sequence[str] = ()
) -> list[SkillRow]:
    """Questions of a content skill, answered plainly; in equal parts with those that ask for one of `formats`.

    No question stands twice, whatever it asks for.

    Raises:
        ConfigError: the skill has fewer than `n` different questions at this level and split; or as `check_pair`.
    """
    for format in formats:
        check_pair(content, format)
    questions = _draw(lambda rng: draw_question(content, rng, level), content, split, n, seed)
    asked = ("", *formats)
    return [_in_format(question, content, asked[k % len(asked)]) for k, question in enumerate(questions)]


def format_rows(
    format: str, *, split: Split, n: int, seed: int, contents: Sequence[str] = (), level: int = 1
) -> list[SkillRow]:
    """Requests to repeat words, names or numbers in a format; in equal parts with questions of `contents`.

    Raises:
        ConfigError: as `joint_rows`.
    """
    kinds = [kind for kind in _ECHO_KINDS if kind in FORMATS[format].takes]
    parts = [n // (1 + len(contents))] * len(contents)
    questions = _draw(lambda rng: _echo(rng, kinds), f"format {format}", split, n - sum(parts), seed)
    rows = [_in_format(q, "echo", format) for q in questions]
    for content, part in zip(contents, parts, strict=True):
        rows += joint_rows(content, format, level=level, split=split, n=part, seed=seed)
    return rows


def joint_rows(content: str, format: str, *, level: int, split: Split, n: int, seed: int) -> list[SkillRow]:
    """Questions of a content skill that ask for a format.

    Raises:
        ConfigError: as `check_pair` and `content_rows`.
    """
    check_pair(content, format)
    questions = _draw(lambda rng: draw_question(content, rng, level), content, split, n, seed)
    return [_in_format(q, content, format) for q in questions]


def _in_format(question: Question, content: str, format: str) -> SkillRow:
    form = FORMATS[format] if format else PLAIN
    prompt = f"{question.text} {form.request}".rstrip()
    return SkillRow(prompt, form.write(question.answer), question.answer, content, format)


def _echo(rng: np.random.Generator, kinds: Sequence[str]) -> Question:
    numbers = [str(int(x)) for x in rng.integers(_LARGEST_NUMBER + 1, size=3)]
    words = (str(rng.choice(THINGS)), str(rng.choice(NAMES)), numbers[0], " ".join(numbers))
    word = words[_ECHO_KINDS.index(str(rng.choice(kinds)))]
    return Question(str(rng.choice(_ECHOES)).format(word), word)


def _draw(
    draw: Callable[[np.random.Generator], Question], what: str, split: Split, n: int, seed: int
) -> list[Question]:
    """`n` different questions of a split, in the order drawn."""
    rng = np.random.default_rng([seed, _number(what), _number(split)])
    found: dict[str, Question] = {}
    in_vain = 0
    while in_vain < _PATIENCE + 20 * len(found):
        question = draw(rng)
        if question.text in found or _split_of(question.text) != split:
            in_vain += 1
            continue
        found[question.text], in_vain = question, 0
        if len(found) == n:
            return list(found.values())
    raise ConfigError(
        "a skill has too few different questions",
        where=f"{what}, {split}",
        found=f"{len(found)}, and no further one in {in_vain} draws",
        expected=n,
        do="ask for fewer rows, or for a higher level",
    )


def _split_of(text: str) -> Split:
    return _SPLITS[_number(text) % len(_SPLITS)]


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
