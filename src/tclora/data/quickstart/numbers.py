"""Families about numbers: sorting both ways and adding in a story.

In: a local generator. Out: the input and the answer of one instance. `ascending` and `descending` get the same inputs
and want opposite answers. Numbers stay small: the point is to learn a format and a rule from few rows.
"""

import random

from tclora.data.quickstart.family import Family

__all__ = ["NUMBER_FAMILIES"]

LARGEST_SORTED = 9
PEOPLE = ("Mary", "Anna", "Peter", "Paul", "George", "David", "James", "Henry")
THINGS = ("books", "boxes", "cards", "birds", "stones", "shoes", "cakes", "coins")


def _three_numbers(rng: random.Random) -> list[int]:
    return rng.sample(range(1, LARGEST_SORTED + 1), 3)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _ascending(rng: random.Random) -> tuple[str, str]:
    numbers = _three_numbers(rng)
    return _listed(numbers), _listed(sorted(numbers))


def _descending(rng: random.Random) -> tuple[str, str]:
    numbers = _three_numbers(rng)
    return _listed(numbers), _listed(sorted(numbers, reverse=True))


def _sum_story(rng: random.Random) -> tuple[str, str]:
    person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    had, got = rng.randint(2, 9), rng.randint(1, 4)
    return f"{person} has {had} {thing} and buys {got} more.", f"{had} + {got} = {had + got}"


NUMBER_FAMILIES = (
    Family(
        "ascending",
        inputs="three_numbers",
        wordings=(
            "Sort in ascending order.",
            "Ascending order, please.",
            "Arrange in ascending order.",
            "Put into ascending order.",
        ),
        write=_ascending,
    ),
    Family(
        "descending",
        inputs="three_numbers",
        wordings=(
            "Rank biggest to smallest.",
            "From biggest to smallest.",
            "Line up biggest to smallest.",
            "Go from biggest to smallest.",
        ),
        write=_descending,
    ),
    Family(
        "sum_story",
        inputs="stories",
        wordings=(
            "How many are there now?",
            "How many now? Show the sum.",
            "So how many now?",
            "Count: how many now?",
        ),
        write=_sum_story,
    ),
)
