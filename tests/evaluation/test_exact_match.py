"""The one rule of exact match, case by case, and the choice of who is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tclora.evaluation import is_exact_match, normalize_answer
from tclora.evaluation.matching import choose_examples


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Paris", "paris"),
        ("  Paris \n", "Paris"),
        ("Paris.", "Paris"),
        ("New\n  York", "new york"),
        ("yes .", "Yes"),
        ("STRASSE", "straße"),
        ("", "."),
    ],
)
def test_equal_answers(answer, expected):
    assert is_exact_match(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("the Paris", "Paris"),
        ("Paris!", "Paris"),
        ("Paris..", "Paris"),
        ("3.0", "3"),
        ("café", "cafe"),
        ("a, b", "a b"),
    ],
)
def test_different_answers(answer, expected):
    assert not is_exact_match(answer, expected)


@given(st.text())
def test_padding_and_one_period_never_matter(text):
    assert normalize_answer(f"\t {text}\n") == normalize_answer(text)


def test_all_are_asked_without_a_limit():
    assert choose_examples(["a", "b"], [0, 0], None, seed=0) == [0, 1]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_choice_is_bounded_complete_and_free_of_order(clusters, limit, random):
    keys = [f"key {i}" for i in range(len(clusters))]
    chosen = choose_examples(keys, clusters, limit, seed=7)
    assert chosen == sorted(set(chosen))
    for cluster in set(clusters):
        assert sum(clusters[i] == cluster for i in chosen) == min(limit, clusters.count(cluster))
    order = list(range(len(keys)))
    random.shuffle(order)
    again = choose_examples([keys[i] for i in order], [clusters[i] for i in order], limit, seed=7)
    assert {keys[order[i]] for i in again} == {keys[i] for i in chosen}


def test_another_seed_asks_others():
    keys = [str(i) for i in range(100)]
    assert choose_examples(keys, [0] * 100, 10, seed=0) != choose_examples(keys, [0] * 100, 10, seed=1)
