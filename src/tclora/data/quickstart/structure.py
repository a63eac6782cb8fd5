"""Families about records: dates in two formats, a field of a JSON object, a CSV row as prose or as pairs.

In: a local generator. Out: the input and the answer of one instance. `iso_date` and `dotted_date` get the same inputs
and want other formats, as do `csv_sentence` and `csv_pairs`.
"""

import json
import random

from tclora.data.quickstart.family import Family

__all__ = ["HELD_OUT_STRUCTURE_FAMILIES", "STRUCTURE_FAMILIES"]

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
NAMES = ("Mary", "Anna", "Peter", "Paul", "George", "David", "James", "Henry", "Alice", "Max")
CITIES = ("Rome", "Paris", "Berlin", "Boston", "Vienna", "Oslo", "Madrid", "Chicago")
COLORS = ("red", "blue", "green", "black", "white", "yellow")
PETS = ("dog", "cat", "horse", "bird", "fish")
FIELDS = {"name": NAMES, "city": CITIES, "color": COLORS, "pet": PETS}


def _date(rng: random.Random) -> tuple[int, int, int]:
    # Days have two digits, so that only months are padded, and stop at 28, so that every month has them.
    return rng.randint(2018, 2025), rng.randint(1, 12), rng.randint(10, 28)


def _in_words(year: int, month: int, day: int) -> str:
    return f"{day} {MONTHS[month - 1]} {year}"


def _iso_date(rng: random.Random) -> tuple[str, str]:
    year, month, day = _date(rng)
    return _in_words(year, month, day), f"{year}-{month:02d}-{day:02d}"


def _dotted_date(rng: random.Random) -> tuple[str, str]:
    year, month, day = _date(rng)
    return _in_words(year, month, day), f"{day:02d}.{month:02d}.{year}"


def _json_field(rng: random.Random) -> tuple[str, str]:
    record = {field: rng.choice(FIELDS[field]) for field in rng.sample(tuple(FIELDS), 2)}
    field = rng.choice(tuple(record))
    return f"{json.dumps(record)}\n{field}", record[field]


def _csv_row(rng: random.Random) -> tuple[str, int, str]:
    return rng.choice(NAMES), rng.randint(10, 22), rng.choice(CITIES)


def _csv_sentence(rng: random.Random) -> tuple[str, str]:
    name, age, city = _csv_row(rng)
    return f"{name},{age},{city}", f"{name} is {age} years old and lives in {city}."


def _csv_pairs(rng: random.Random) -> tuple[str, str]:
    name, age, city = _csv_row(rng)
    return f"{name},{age},{city}", f"name={name}; age={age}; city={city}"


def _record_date(rng: random.Random) -> tuple[str, str]:
    year, month, day = _date(rng)
    record = {"name": rng.choice(NAMES), "date": _in_words(year, month, day)}
    return f"{json.dumps(record)}\ndate", f"{year}-{month:02d}-{day:02d}"


STRUCTURE_FAMILIES = (
    Family(
        "iso_date",
        inputs="dates",
        wordings=(
            "Write the ISO date.",
            "ISO date, year in front.",
            "Convert into the ISO date.",
            "What is the ISO date?",
        ),
        write=_iso_date,
    ),
    Family(
        "dotted_date",
        inputs="dates",
        wordings=(
            "Day, month, year with dots.",
            "Dots between day, month, year.",
            "Put dots: day, month, year.",
            "Use dots for day, month, year.",
        ),
        write=_dotted_date,
    ),
    Family(
        "json_field",
        inputs="json",
        wordings=(
            "Look up the JSON key.",
            "Value of this JSON key?",
            "Read the JSON key below.",
            "Find the JSON key.",
        ),
        write=_json_field,
    ),
    Family(
        "csv_sentence",
        inputs="csv",
        wordings=(
            "Describe this person in a sentence.",
            "A sentence about this person.",
            "Tell this person in a sentence.",
            "Form a sentence on this person.",
        ),
        write=_csv_sentence,
    ),
    Family(
        "csv_pairs",
        inputs="csv",
        wordings=(
            "Rewrite as field=value pairs.",
            "Make field=value pairs.",
            "Turn this to field=value pairs.",
            "List field=value pairs.",
        ),
        write=_csv_pairs,
    ),
)

HELD_OUT_STRUCTURE_FAMILIES = (
    Family(
        "record_date",
        inputs="dated_json",
        wordings=(
            "Look up the JSON key. Write the ISO date.",
            "Value of this JSON key as the ISO date?",
            "Read the JSON key below. Convert into the ISO date.",
        ),
        write=_record_date,
    ),
)
