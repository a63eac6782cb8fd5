"""The number in an answer: odd texts and values with the number that a reader would take, and how numbers agree."""

import math
import time

import pytest

from tclora.evaluation.tasks.numbers import EXACT_TOLERANCE, RELATIVE_TOLERANCE, agree, last_number, number_of

IN_TEXT = {
    "": None,
    "no number": None,
    "18": 18.0,
    "The answer is 18.": 18.0,
    "18 ducks, 3 eggs": 3.0,
    "-3": -3.0,
    "= -3": -3.0,
    "\u22125": -5.0,
    "10-3": 3.0,
    "(4)-3": 3.0,
    "x-3": 3.0,
    "5 - 3": 3.0,
    "$18": 18.0,
    "-$18": -18.0,
    "$-18": -18.0,
    "$ 18": 18.0,
    "\u20ac1,5": 5.0,
    "1,000": 1000.0,
    "$1,234,567.89 in all": 1234567.89,
    "1,23,456": 23456.0,
    "12,3456": 3456.0,
    "1_000": 1000.0,
    "1_0": 1.0,
    "3.14": 3.14,
    ".5": 0.5,
    "Rs.5": 5.0,
    "5.": 5.0,
    "1.2.3": 3.0,
    "1e5": 100000.0,
    "2.5E-3 m": 0.0025,
    "1e5x": 1.0,
    "1e400": None,
    "7 and 1e400": None,
    "-1e400": None,
    "1e-400": 0.0,
    "9" * 100_000: None,
    "0" * 100_000 + "7": 7.0,
    "inf": None,
    "nan": None,
    "-inf, so 4": 4.0,
    "-0.0": 0.0,
    "18%": 18.0,
    "18kg": 18.0,
    "3/4": 4.0,
    "H2O": None,
    "x2": None,
    "GPT4 says 5": 5.0,
    "٣": None,
    "1\u00a0000": 0.0,
    "3:30": 30.0,
    "#1": 1.0,
    "1\n2\n": 2.0,
}


@pytest.mark.parametrize(("text", "number"), IN_TEXT.items(), ids=[text[:12] or "empty" for text in IN_TEXT])
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


VALUES = [
    (18, 18.0),
    (18.5, 18.5),
    (True, None),
    (False, None),
    (None, None),
    (math.inf, None),
    (-math.inf, None),
    (math.nan, None),
    (-0.0, 0.0),
    (10**400, None),
    (10**20, 1e20),
    ("18", 18.0),
    (" 18 ", 18.0),
    ("1,000", 1000.0),
    ("$5", 5.0),
    ("-$5.50", -5.5),
    ("5%", 5.0),
    ("1e400", None),
    ("9" * 100_000, None),
    ("18 ducks", None),
    ("1 2", None),
    ("inf", None),
    ("", None),
    ([18], None),
    ({"a": 1}, None),
    (1j, None),
    (b"18", None),
]


@pytest.mark.parametrize(("value", "number"), VALUES, ids=lambda value: repr(value)[:12])
def test_the_number_that_a_value_is(value, number):
    assert number_of(value) == number


@pytest.mark.parametrize("text", ["1," * 50_000, "-" * 100_000, "1e" * 50_000, "1.1" * 30_000, "$ " * 50_000])
def test_a_hostile_text_takes_no_time(text):
    began = time.process_time()
    last_number(text)
    number_of(text)
    # A scan of 100,000 characters takes some 20 ms; a quadratic one would take minutes.
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("number", "expected", "within", "equal"),
    [
        (18.0, 18.0, True, True),
        (18.017, 18.0, True, False),
        (18.02, 18.0, False, False),
        (-18.0, 18.0, False, False),
        (None, 18.0, False, False),
        (0.0, 0.0, True, True),
        (-0.0, 0.0, True, True),
        (1e-3, 0.0, False, False),
        (9.284e12, 9284017268534.4, True, False),
        (0.1 + 0.2, 0.3, True, True),
        (1e308, -1e308, False, False),
    ],
)
def test_when_numbers_agree(number, expected, within, equal):
    assert agree(number, expected, RELATIVE_TOLERANCE) is within
    assert agree(number, expected, EXACT_TOLERANCE) is equal
