"""Families about words: picking one, changing case, initials, the mood of a review.

In: a local generator. Out: the input and the answer of one instance. `first_word` and `last_word` get the same inputs
and want other answers, as do `upper_case` and `lower_case`: merging their adapters is not trivial.
"""

import random

from tclora.data.quickstart.family import Family

__all__ = ["HELD_OUT_TEXT_FAMILIES", "TEXT_FAMILIES"]

# Everyday words that a small tokenizer keeps whole, so that copying them is one step.
WORDS = (
    "ball", "tree", "wood", "land", "head", "train", "image", "ground", "iron", "mark", "mask", "order", "path",
    "place", "point", "seed",
)  # fmt: skip
CASE_WORDS = ("code", "data", "list", "task", "model", "text", "word", "line")
NAME_WORDS = ("Blue", "Central", "Daily", "East", "First", "Green", "House", "King", "Lake", "New", "River", "South")
PLACES = ("soup", "room", "food", "service", "music", "bread", "coffee", "garden", "view", "staff", "table", "menu")
PRAISE = ("great", "good", "lovely", "warm", "perfect", "excellent", "fresh", "happy")
BLAME = ("bad", "cold", "awful", "dirty", "slow", "terrible", "poor", "rude")


def _three_words(rng: random.Random) -> list[str]:
    return rng.sample(WORDS, 3)


def _first_word(rng: random.Random) -> tuple[str, str]:
    words = _three_words(rng)
    return " ".join(words), words[0]


def _last_word(rng: random.Random) -> tuple[str, str]:
    words = _three_words(rng)
    return " ".join(words), words[-1]


def _mixed_case(rng: random.Random) -> str:
    words = rng.sample(CASE_WORDS, 2)
    return " ".join(rng.choice((word, word.upper(), word.capitalize())) for word in words)


def _upper_case(rng: random.Random) -> tuple[str, str]:
    text = _mixed_case(rng)
    return text, text.upper()


def _lower_case(rng: random.Random) -> tuple[str, str]:
    text = _mixed_case(rng)
    return text, text.lower()


def _initials(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(NAME_WORDS, 3)
    return " ".join(words), "".join(word[0] for word in words)


def _review_mood(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(PLACES, 2)
    mood, adjectives = rng.choice((("positive", PRAISE), ("negative", BLAME)))
    one, two = rng.sample(adjectives, 2)
    return f"The {first} was {one} and the {second} was {two}.", mood


def _first_word_upper(rng: random.Random) -> tuple[str, str]:
    # Four words, so that no input is one of `first_word`, whose lists have three.
    words = rng.sample(CASE_WORDS, 4)
    return " ".join(words), words[0].upper()


TEXT_FAMILIES = (
    Family(
        "first_word",
        inputs="three_words",
        wordings=(
            "Pick the first word.",
            "Which word stands first?",
            "The first word only.",
            "Say the first word.",
        ),
        write=_first_word,
    ),
    Family(
        "last_word",
        inputs="three_words",
        wordings=(
            "Name the final item.",
            "Which item is final?",
            "Final item only.",
            "Return the final item.",
        ),
        write=_last_word,
    ),
    Family(
        "upper_case",
        inputs="mixed_case",
        wordings=(
            "Use upper case capitals.",
            "All capitals, upper case.",
            "Turn into upper case capitals.",
            "Upper case: capitals only.",
        ),
        write=_upper_case,
    ),
    Family(
        "lower_case",
        inputs="mixed_case",
        wordings=(
            "Put in small letters.",
            "Small letters, please.",
            "Just small letters here.",
            "Rewrite with small letters.",
        ),
        write=_lower_case,
    ),
    Family(
        "initials",
        inputs="names",
        wordings=(
            "Make an acronym.",
            "What is the acronym?",
            "Shorten to an acronym.",
            "Give its acronym.",
        ),
        write=_initials,
    ),
    Family(
        "review_mood",
        inputs="reviews",
        wordings=(
            "Is this guest review positive or negative?",
            "Label the guest review positive or negative.",
            "Positive or negative guest review?",
        ),
        write=_review_mood,
    ),
)

HELD_OUT_TEXT_FAMILIES = (
    Family(
        "first_word_upper",
        inputs="four_words",
        wordings=(
            "Pick the first word. Use upper case capitals.",
            "Say the first word in upper case capitals.",
            "Only the first word, all capitals, upper case.",
        ),
        write=_first_word_upper,
    ),
)
