"""The content skills: questions with one short answer, drawn from a generator, at three levels of difficulty.

In: a local generator and a level. Out: `Question`s. A content skill says what the answer is; how the answer is
written is the business of `answer_formats`. Each is small enough for a base of a few million parameters: looking up,
picking by position, comparing, counting, adding, sorting, spelling backwards. Refused: levels outside 1 to 3. Written
for this project; no text of a benchmark is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tclora.errors import ConfigError
from tclora.registry import Registry
from tclora.testbeds.words import NAMES, THINGS

__all__ = ["CONTENTS", "LEVELS", "Question", "draw_question"]

LEVELS = (1, 2, 3)
_SOURCE = "written for tclora"
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Question:
    """A text that asks one thing, and its answer in plain writing."""

    text: str
    answer: str


Draw = Callable[[np.random.Generator, int], Question]
CONTENTS: Registry[Draw] = Registry("content skill")


def draw_question(skill: str, rng: np.random.Generator, level: int) -> Question:
    """One question of a content skill.

    Raises:
        ConfigError: `level` is not 1, 2 or 3, or there is no such skill.
    """
    if level not in LEVELS:
        raise ConfigError("a skill has three levels", where=f"skill {skill}", found=level, expected="1, 2 or 3")
    return CONTENTS[skill](rng, level)


@CONTENTS.register("lookup", source=_SOURCE, kind="thing")
def lookup(rng: np.random.Generator, level: int) -> Question:
    """Who has what: the answer is a word of the question."""
    people, things = _some(rng, NAMES, level + 1), _some(rng, THINGS, level + 1)
    asked = int(rng.integers(level + 1))
    facts = " ".join(f"{name} has the {thing}." for name, thing in zip(people, things, strict=True))
    return Question(f"{facts} What does {people[asked]} have?", things[asked])


@CONTENTS.register("position", source=_SOURCE, kind="thing")
def position(rng: np.random.Generator, level: int) -> Question:
    """The word at a place of a list."""
    words = _some(rng, THINGS, level + 2)
    asked = int(rng.integers(len(words)))
    return Question(f"Words: {', '.join(words)}. Which word is {_ORDINALS[asked]}?", words[asked])


@CONTENTS.register("compare", source=_SOURCE, kind="name")
def compare(rng: np.random.Generator, level: int) -> Question:
    """The older of two people."""
    people = _some(rng, NAMES, 2)
    ages = rng.choice(np.arange(1, (10, 20, 100)[level - 1]), 2, replace=False)
    facts = " ".join(f"{name} is {age} years old." for name, age in zip(people, ages, strict=True))
    return Question(f"{facts} Who is older?", people[int(ages.argmax())])


@CONTENTS.register("count", source=_SOURCE, kind="number")
def count(rng: np.random.Generator, level: int) -> Question:
    """How often a word stands in a list."""
    pair = _some(rng, THINGS, 2)
    picks = rng.integers(2, size=int(rng.integers(level + 1, 2 * level + 3)))
    words = [pair[int(pick)] for pick in picks]
    return Question(f"Words: {', '.join(words)}. How many times is {pair[0]} there?", str(words.count(pair[0])))


@CONTENTS.register("add", source=_SOURCE, kind="number")
def add(rng: np.random.Generator, level: int) -> Question:
    """A sum in words; sums stay at or below 20."""
    most = (3, 6, 10)[level - 1]
    first, second = (int(x) for x in rng.integers(1, most + 1, size=2))
    (name,), (thing,) = _some(rng, NAMES, 1), _some(rng, THINGS, 1)
    text = f"{name} has {first} of the {thing}s and gets {second} more. How many does {name} have now?"
    return Question(text, str(first + second))


@CONTENTS.register("sort", source=_SOURCE, kind="numbers")
def sort(rng: np.random.Generator, level: int) -> Question:
    """Numbers from small to large."""
    numbers = rng.choice(np.arange(1, 21), level + 1, replace=False)
    listed = ", ".join(str(number) for number in numbers)
    return Question(f"Numbers: {listed}. Sort them.", " ".join(str(number) for number in sorted(numbers)))


@CONTENTS.register("backwards", source=_SOURCE, kind="letters")
def backwards(rng: np.random.Generator, level: int) -> Question:
    """Spell letters in reverse; they are set apart, since a tokenizer hides the letters of a word."""
    letters = [chr(ord("a") + int(x)) for x in rng.integers(26, size=level + 1)]
    return Question(f"Letters: {' '.join(letters)}. Spell them backwards.", " ".join(reversed(letters)))


def _some(rng: np.random.Generator, words: tuple[str, ...], n: int) -> list[str]:
    return [words[int(index)] for index in rng.choice(len(words), n, replace=False)]
