"""The skills: answers are right by a second reckoning, formats read back what they write, splits share no question."""

import re
from itertools import product

import numpy as np
import pytest

from tclora.errors import ConfigError, UnknownNameError
from tclora.testbeds import CONTENTS, FORMATS, LEVELS, check_pair, content_rows, draw_question, format_rows, joint_rows
from tclora.testbeds.skill_scoring import score_answer
from tclora.testbeds.words import NAMES, NUMBER_WORDS, THINGS


def questions(skill, level, n=40):
    rng = np.random.default_rng(level)
    return [draw_question(skill, rng, level) for _ in range(n)]


def only(pattern, text):
    (found,) = re.findall(pattern, text)
    return found


def second_reckoning(skill, text):
    """The answer worked out from the text alone, in another way than it was made."""
    numbers = [int(x) for x in re.findall(r"\d+", text)]
    listed = re.findall(r"\w+", text.partition(":")[2].partition(".")[0])
    if skill == "lookup":
        asked = only(r"does (\w+) have", text)
        return only(rf"{asked} has the (\w+)\.", text)
    if skill == "position":
        place = ("first", "second", "third", "fourth", "fifth", "sixth").index(only(r"is (\w+)\?", text))
        return listed[place]
    if skill == "compare":
        ages = {name: int(age) for name, age in re.findall(r"(\w+) is (\d+) years", text)}
        return max(ages, key=lambda name: ages[name])
    if skill == "count":
        return str(listed.count(only(r"times is (\w+)", text)))
    if skill == "add":
        return str(sum(numbers))
    if skill == "sort":
        return " ".join(map(str, sorted(numbers)))
    return " ".join(listed[::-1])


@pytest.mark.parametrize(("skill", "level"), list(product(sorted(CONTENTS), LEVELS)), ids=str)
def test_answers_are_right(skill, level):
    for question in questions(skill, level):
        assert question.answer == second_reckoning(skill, question.text), question.text


def test_the_second_reckoning_can_fail():
    assert second_reckoning("add", "Ben has 3 of the cups and gets 2 more.") == "5"
    assert second_reckoning("count", "Words: cat, dog, cat. How many times is cat there?") != "1"


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_format_reads_what_it_writes_and_no_plain_answer(name):
    form = FORMATS[name]
    answers = {"thing": "frog", "name": "Anna", "number": "7", "numbers": "3 12 20", "letters": "a b"}
    for kind, answer in answers.items():
        if kind in form.takes:
            assert (form.read(form.write(answer)) or "").casefold() == answer.casefold()
            assert form.write(answer) != answer
            assert form.read(answer) is None
    assert form.read("") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("json", '{"answer": 3}'), ("json", '{"other": "x"}'), ("json", "{"), ("tags", "<answer></answer>"),
     ("tags", "<answer>a"), ("python", "print(a)"), ("capitals", "FROg"), ("words", "twentyone"), ("list", "[[a]]")],
)  # fmt: skip
def test_what_is_not_in_the_format_is_not_read(name, text):
    assert FORMATS[name].read(text) is None


def test_number_words_are_distinct_and_refuse_words():
    for words in NUMBER_WORDS.values():
        assert len(words) == len(set(words)) == 21
    with pytest.raises(ConfigError, match="no number word"):
        FORMATS["words"].write("frog")
    assert len(set(THINGS)) == len(THINGS)
    assert len(set(NAMES)) == len(NAMES)


def test_no_question_of_one_split_is_in_another_whatever_the_seed():
    splits = {
        split: {row.prompt for seed in (0, 1) for row in content_rows("add", level=1, split=split, n=60, seed=seed)}
        for split in ("train", "dev", "test")
    }
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["dev"]
    assert not splits["dev"] & splits["test"]
    joint = joint_rows("add", "json", level=1, split="test", n=60, seed=5)
    assert not {row.prompt.removesuffix(" Answer in JSON.") for row in joint} & splits["train"]


def test_rows_depend_on_the_seed_and_on_nothing_else():
    first, again, other = (content_rows("lookup", level=1, split="train", n=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({row.prompt for row in first}) == 20


def test_format_rows_hold_no_content_question_and_content_rows_no_request():
    plain = content_rows("add", level=2, split="train", n=50, seed=0)
    assert all(not row.format and FORMATS["json"].request not in row.prompt for row in plain)
    echoed = format_rows("words", split="train", n=50, seed=0)
    assert all(row.content == "echo" and row.prompt.endswith("Answer in words.") for row in echoed)
    assert not any("more" in row.prompt for row in echoed)


def test_a_format_is_learned_on_other_contents_in_equal_parts():
    rows = format_rows("json", split="train", n=40, seed=0, contents=("lookup", "compare"), level=1)
    assert [sum(row.content == name for row in rows) for name in ("echo", "lookup", "compare")] == [14, 13, 13]
    assert all(row.format == "json" and row.output == FORMATS["json"].write(row.answer) for row in rows)
    asked_in_test = {row.prompt for row in joint_rows("lookup", "json", level=1, split="test", n=13, seed=0)}
    assert not asked_in_test & {row.prompt for row in rows}
    with pytest.raises(ConfigError, match="does not go with"):
        format_rows("words", split="train", n=40, seed=0, contents=("lookup",))


def test_a_content_is_learned_in_other_formats_in_equal_parts():
    rows = content_rows("add", level=2, split="train", n=30, seed=0, formats=("tags", "python"))
    assert [sum(row.format == name for row in rows) for name in ("", "tags", "python")] == [10, 10, 10]
    plain = content_rows("add", level=2, split="train", n=30, seed=0)
    requests = [FORMATS[row.format].request if row.format else "" for row in rows]
    assert [f"{row.prompt} {request}".rstrip() for row, request in zip(plain, requests, strict=True)] == [
        row.prompt for row in rows
    ]
    assert [row.answer for row in plain] == [row.answer for row in rows]
    with pytest.raises(ConfigError, match="does not go with"):
        content_rows("lookup", level=1, split="train", n=30, seed=0, formats=("words",))


def test_pairs_that_do_not_fit_and_skills_that_run_out_are_refused():
    with pytest.raises(ConfigError, match="does not go with"):
        check_pair("lookup", "words")
    with pytest.raises(UnknownNameError, match="did you mean capitals"):
        check_pair("lookup", "capital")
    with pytest.raises(ConfigError, match="too few different questions"):
        format_rows("words", split="dev", n=500, seed=0)
    with pytest.raises(ConfigError, match="three levels"):
        content_rows("add", level=4, split="train", n=1, seed=0)


@pytest.mark.parametrize(
    ("format", "text", "parts"),
    [
        ("json", '{"answer": "5"}', (True, True, True)),
        ("json", '{"answer": "6"}', (False, False, True)),
        ("json", "5", (False, True, False)),
        ("json", "<answer>5</answer>", (False, True, False)),
        ("json", "five", (False, True, False)),
        ("json", "", (False, False, False)),
        ("words", "five", (True, True, True)),
        ("words", "six", (False, False, True)),
        ("words", "5", (False, True, False)),
        ("words", "cinco", (False, True, False)),
        ("", "5", (True, True, True)),
        ("", "6", (False, False, True)),
        ("", '{"answer": "5"}', (False, True, False)),
    ],
)
def test_parts_are_scored_apart(format, text, parts):
    rows = joint_rows("add", format, level=1, split="train", n=40, seed=0) if format else []
    rows = rows or content_rows("add", level=1, split="train", n=40, seed=0)
    row = next(row for row in rows if row.answer == "5")
    found = score_answer(row, text)
    assert (found.exact, found.content, found.format) == parts
