"""Who takes part: even samples, splits that keep equal prompts together, and the hold-out rule."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.config import HoldOutConfig
from tclora.data import Example, hold_out, sample_examples, split_dev, task_groups
from tclora.errors import ConfigError, DataError


def _examples(sizes: dict[str, int]) -> list[Example]:
    return [Example(f"{task} {i}", output=str(i), task=task) for task, size in sizes.items() for i in range(size)]


def test_a_sample_is_even_over_families_and_over_tasks_in_them():
    examples = _examples({"big/a": 500, "big/b": 300, "mid/a": 200, "small": 7})
    sample = sample_examples(examples, 107, seed=0)
    families = Counter(example.family for example in sample)
    assert families == {"big": 50, "mid": 50, "small": 7}
    assert Counter(example.task for example in sample if example.family == "big") == {"big/a": 25, "big/b": 25}


def test_a_sample_keeps_the_order_and_is_the_same_in_any_order():
    examples = _examples({"a/x": 40, "b/y": 40, "": 40})
    sample = sample_examples(examples, 31, seed=3)
    assert [examples.index(example) for example in sample] == sorted(examples.index(example) for example in sample)
    shuffled = random.Random(0).sample(examples, len(examples))
    assert set(sample_examples(shuffled, 31, seed=3)) == set(sample)
    assert set(sample_examples(examples, 31, seed=4)) != set(sample)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a/x", "a/y", "b/x", "c", ""]), st.integers(1, 20)), st.integers(1, 60))
def test_a_sample_has_the_size_asked_for_and_is_as_even_as_can_be(sizes, wanted):
    examples = _examples(sizes)
    sample = sample_examples(examples, wanted, seed=0)
    assert len(sample) == min(wanted, len(examples))
    taken, held = (Counter(example.family for example in rows) for rows in (sample, examples))
    # A family with rows to spare has at most one row less than any other has.
    assert all(taken[a] >= taken[b] - 1 for a in held if taken[a] < held[a] for b in held)


def test_duplicates_are_sampled_one_by_one():
    assert len(sample_examples([Example("a", output="b")] * 10, 4, seed=0)) == 4


def test_a_sample_of_nothing_is_refused():
    assert sample_examples(_examples({"a": 3}), None, seed=0) == _examples({"a": 3})
    with pytest.raises(ConfigError, match="cannot be empty"):
        sample_examples(_examples({"a": 3}), 0, seed=0)


def test_a_split_is_near_its_fraction_and_complete():
    examples = _examples({"a": 1000})
    train, dev = split_dev(examples, 0.1, seed=0)
    assert sorted([*train, *dev], key=examples.index) == examples
    # Binomial: five standard deviations are 5 * sqrt(1000 * 0.1 * 0.9) = 47 rows.
    assert abs(len(dev) - 100) < 47
    assert set(split_dev(examples, 0.1, seed=1)[1]) != set(dev)


def test_one_prompt_is_on_one_side_whatever_its_outputs():
    examples = [Example(f"q{i % 50}", output=f"a{i}") for i in range(500)]
    train, dev = split_dev(examples, 0.3, seed=0)
    assert dev and not {example.instruction for example in train} & {example.instruction for example in dev}


def test_more_data_moves_nothing_to_the_other_side():
    few, many = _examples({"a": 100}), _examples({"a": 500})
    assert set(split_dev(few, 0.2, seed=0)[1]) <= set(split_dev(many, 0.2, seed=0)[1])


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_both_sides_of_a_split_have_something(fraction):
    train, dev = split_dev(_examples({"a": 2}), fraction, seed=0)
    assert (len(train), len(dev)) == (1, 1)


def test_plain_texts_are_split_by_their_text():
    train, dev = split_dev([Example("", output=f"text {i}") for i in range(200)], 0.5, seed=0)
    assert 50 < len(dev) < 150 and len(train) + len(dev) == 200


@pytest.mark.parametrize("examples", [[], _examples({"a": 1}), _examples({"a": 1}) * 5])
def test_what_cannot_be_split_is_refused(examples):
    with pytest.raises(DataError, match="cannot be split"):
        split_dev(examples, 0.5, seed=0)


def test_hold_out_follows_the_stated_rule():
    examples = [Example(f"q{i}", f"x{i}" if i % 2 else "", "a") for i in range(300)]
    kept = hold_out(examples, HoldOutConfig(modulus=5, remainder=2))
    expected = [
        example
        for example in examples
        if int(hashlib.sha1(f"{example.instruction}\n{example.input}".encode()).hexdigest(), 16) % 5 != 2
    ]
    assert kept == expected and 0 < len(kept) < 300


def test_hold_outs_that_keep_nothing_or_match_nothing_are_refused():
    with pytest.raises(DataError, match="leaves no example"):
        hold_out(_examples({"a": 3}), HoldOutConfig(modulus=1))
    with pytest.raises(ConfigError, match="match nothing"):
        hold_out(_examples({"a": 3}), HoldOutConfig(modulus=3, remainder=3))


def test_task_groups_are_families_unless_there_is_only_one():
    assert task_groups(_examples({"a/x": 1, "b/y": 1, "c": 1})) == ["a", "b", "c"]
    assert task_groups(_examples({"a/x": 1, "a/y": 1})) == ["a/x", "a/y"]
    assert task_groups(_examples({"": 2})) == ["", ""]
