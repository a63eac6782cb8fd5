"""Scores by hand, by the rouge_score package and by lm-eval's rule; refusals of answers that do not fit."""

import random

import numpy as np
import pytest

from tclora.errors import NumericalError, ShapeError
from tclora.evaluation.tasks import Continuation, Generation, Item, Likelihoods, Prompt
from tclora.evaluation.tasks.rouge import rouge_l
from tclora.evaluation.tasks.scorers import (
    ChoiceGold,
    score_choice,
    score_exact,
    score_loss,
    score_numeric,
    score_rouge,
)

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "2", "U.S.", "don't"]


def choice_item(choices: tuple[str, ...], answer: int) -> Item:
    asked = tuple(Continuation(Prompt("Q"), f" {choice}") for choice in choices)
    return Item("7", asked, ChoiceGold(choices, answer))


def text_item(gold, stop: tuple[str, ...] = ()) -> Item:
    return Item("7", Generation(Prompt("Q"), 8, stop), gold)


def likelihoods(*sums: float, n_tokens: tuple[int, ...] | None = None) -> Likelihoods:
    return Likelihoods(tuple(sums), n_tokens or (1,) * len(sums), (False,) * len(sums))


def test_the_three_ways_to_pick_a_choice():
    # Sums -4, -6, -9; per character -4, -1.5, -1.8; per token -4, -6, -3.
    item = choice_item(("a", "four", "fives"), 1)
    found = score_choice(item, likelihoods(-4.0, -6.0, -9.0, n_tokens=(1, 1, 3)))
    assert found == {"acc": 0.0, "acc_norm": 1.0, "acc_token": 0.0}
    assert score_choice(choice_item(("a", "four", "fives"), 2), likelihoods(-4.0, -6.0, -9.0, n_tokens=(1, 1, 3))) == {
        "acc": 0.0,
        "acc_norm": 0.0,
        "acc_token": 1.0,
    }


def test_length_is_in_characters_as_in_lm_eval():
    # "éé" is 2 characters and 4 bytes: per character -2 beats -2.5, per byte -2.5 would lose to -1.
    found = score_choice(choice_item(("éé", "ab"), 0), likelihoods(-4.0, -5.0))
    assert found["acc_norm"] == 1.0
    found = score_choice(choice_item(("éé", "abc"), 0), likelihoods(-4.0, -5.0))
    assert found["acc_norm"] == 0.0


def test_ties_go_to_the_first_choice():
    assert score_choice(choice_item(("ab", "cd"), 0), likelihoods(-1.0, -1.0))["acc"] == 1.0
    assert score_choice(choice_item(("ab", "cd"), 1), likelihoods(-1.0, -1.0))["acc"] == 0.0


def test_choices_against_lm_evals_own_arithmetic():
    draw = random.Random(0)
    for _ in range(200):
        choices = tuple("".join(draw.choices("abcdé ", k=draw.randint(1, 30))) for _ in range(draw.randint(2, 5)))
        sums = tuple(-draw.random() * 40 for _ in choices)
        answer = draw.randrange(len(choices))
        found = score_choice(choice_item(choices, answer), likelihoods(*sums))
        # lm_eval/api/task.py, process_results of multiple_choice.
        completion_len = np.array([float(len(choice)) for choice in choices])
        assert found["acc"] == float(np.argmax(sums) == answer)
        assert found["acc_norm"] == float(np.argmax(np.array(sums) / completion_len) == answer)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (likelihoods(-1.0), ShapeError, "log-likelihoods were expected"),
        ("yes", ShapeError, "found     str"),
        (likelihoods(-1.0, float("nan")), NumericalError, "a log-likelihood is not finite"),
        (likelihoods(-1.0, float("-inf")), NumericalError, "check the adapter"),
    ],
)
def test_answers_that_do_not_fit_choices_are_refused(answer, error, text):
    with pytest.raises(error, match=text):
        score_choice(choice_item(("a", "b"), 0), answer)


def test_a_likelihood_is_no_text():
    with pytest.raises(ShapeError, match="a generated text was expected"):
        score_exact(text_item(("a",)), likelihoods(-1.0))


def test_exact_match_takes_any_right_answer_and_stops_where_told():
    item = text_item(("New York", "NYC"), stop=("\n", "Q:"))
    assert score_exact(item, " nyc.\nmore")["exact_match"] == 1.0
    assert score_exact(item, "New  york Q: next")["exact_match"] == 1.0
    assert score_exact(item, "Boston")["exact_match"] == 0.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("9 * 2 = 18", True),
        ("She makes 18.\n#### 18\n#### 19", True),
        ("#### $18.00 a day", True),
        ("#### 1,800", False),
        ("#### \n18", True),
        ("18 eggs, then 4", False),
        ("", False),
    ],
)
def test_the_number_behind_the_mark_or_the_last(answer, right):
    assert score_numeric(text_item(18.0), answer)["numeric_exact"] == float(right)


def test_near_numbers_are_near_and_not_exact():
    assert score_numeric(text_item(2000.0), "2001") == {"numeric_exact": 0.0, "numeric": 1.0}


def test_the_loss_is_per_token_and_per_answer():
    item = Item("7", (Continuation(Prompt("Q"), " a b"),), ())
    assert score_loss(item, likelihoods(-6.0, n_tokens=(4,))) == {"loss": 1.5, "nats": 6.0}
    with pytest.raises(ShapeError, match="no token to score"):
        score_loss(item, likelihoods(-6.0, n_tokens=(0,)))


def test_rouge_by_hand():
    # Common subsequence "police the gunman" of 4 and 4 words: P = R = 3/4 (Lin 2004, section 3.1, S1 and S2).
    assert rouge_l("police kill the gunman", "police killed the gunman") == 0.75
    # S3 keeps "the gunman" in order only: 2 of 4.
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert rouge_l("", "a") == rouge_l("a", "") == rouge_l("!", "?") == 0.0
    assert rouge_l("Κόσμε καλημέρα", "κόσμε") == 2 / 3


def test_rouge_against_the_rouge_score_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    draw = random.Random(0)
    for _ in range(60):
        answer, reference = (" ".join(draw.choices(WORDS, k=draw.randint(0, 40))) for _ in range(2))
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        # The package rounds precision and recall before it combines them; float64 keeps 1e-15 of that.
        assert rouge_l(answer, reference) == pytest.approx(expected, abs=1e-12)


def test_rouge_takes_the_nearest_reference():
    found = score_rouge(text_item(("a b c d", "x y")), "x y")
    assert found == {"rouge_l": 1.0, "exact_match": 1.0}
