"""Choice scoring against a direct computation with the Hugging Face model, one row at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tclora.data import ChoiceItem
from tclora.errors import ConfigError
from tclora.evaluation import ChoiceSet
from tclora.evaluation.choices import chance_accuracy, choice_rows, has_blanks, right_choices
from tclora.models import response_losses


def log_likelihood(base, prompt: str, text: str, *, end: bool) -> float:
    """Brute force: float64 sum of log-probabilities of `text` after `prompt`, one sequence, no batching."""
    tokenizer = base.tokenizer
    before = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    after = tokenizer.encode(text, add_special_tokens=False) + ([tokenizer.eos_token_id] if end else [])
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([before + after])).logits[0].double()
    scores = torch.log_softmax(logits, dim=-1)
    return sum(float(scores[len(before) - 1 + i, token]) for i, token in enumerate(after))


def model_scores(base, choice_set):
    nats, n_tokens = response_losses(base, choice_rows(base, choice_set), batch_size=4)
    return -nats, n_tokens


def test_template_choices_equal_brute_force(tiny_base, choices):
    expected = []
    for item in choices[0].items:
        question = f"{item.context}\n{item.question}" if item.context else item.question
        prompt = f"### Instruction:\n{question}\n\n### Response:\n"
        expected += [log_likelihood(tiny_base, prompt, choice, end=True) for choice in item.choices]
    found, _ = model_scores(tiny_base, choices[0])
    # float32 logits of a 2-layer model, summed over at most a dozen tokens of a few nats each.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_blanks_score_only_what_follows(tiny_base, choices):
    expected = []
    for item in choices[1].items:
        before, after = item.question.split("_")
        expected += [log_likelihood(tiny_base, before + choice, after, end=False) for choice in item.choices]
    found, n_tokens = model_scores(tiny_base, choices[1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert n_tokens.tolist() == [len(" waved 0 times.")] * len(expected)


@pytest.mark.parametrize("normalize", ["none", "tokens", "bytes"])
def test_accuracy_equals_brute_force(tiny_base, choices, normalize):
    choice_set = replace(choices[0], normalize=normalize)
    log_likelihoods, n_tokens = model_scores(tiny_base, choice_set)
    expected, row = [], 0
    for item in choice_set.items:
        size = {"none": lambda c: 1, "tokens": lambda c: len(c.encode()) + 1, "bytes": lambda c: len(c.encode())}[
            normalize
        ]
        scores = [log_likelihoods[row + i] / size(choice) for i, choice in enumerate(item.choices)]
        expected.append(max(range(len(scores)), key=lambda i: (scores[i], -i)) == item.answer)
        row += len(scores)
    assert right_choices(choice_set, log_likelihoods, n_tokens).tolist() == expected


def one(*choices: str, answer: int, question: str = "Q?", normalize="none") -> ChoiceSet:
    return ChoiceSet("one", (ChoiceItem("1", "", "", question, choices, answer),), (0,), normalize)


@pytest.mark.parametrize(("normalize", "winner"), [("none", 0), ("tokens", 1), ("bytes", 2)])
def test_each_normalization_can_decide(normalize, winner):
    # -4/1, -6/1, -7/1; -4/2, -6/6, -7/4; -4/1, -6/2, -7/8
    choice_set = one("a", "bb", "cccccccc", answer=winner, normalize=normalize)
    assert right_choices(choice_set, np.array([-4.0, -6.0, -7.0]), np.array([2, 6, 4])).all()


def test_bytes_are_those_of_utf8():
    choice_set = one("é", "e", answer=0, normalize="bytes")
    assert right_choices(choice_set, np.array([-3.0, -2.0]), np.array([1, 1])).all()


def test_ties_go_to_the_lower_index():
    assert right_choices(one("a", "b", answer=0), np.array([-1.0, -1.0]), np.array([1, 1])).all()


def test_length_of_a_filled_blank_decides_nothing():
    choice_set = one("a", "a much longer one", answer=0, question="Then _ left.", normalize="bytes")
    assert right_choices(choice_set, np.array([-5.0, -6.0]), np.array([5, 5])).all()


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        (["a _ b", "_ c"], True),
        (["a _ b", "no blank"], False),
        (["a _ b _ c"], False),
        (["snake_case"], False),
        (["a __ b"], False),
        (["said _."], True),
        ([], False),
    ],
)
def test_a_set_has_blanks_where_every_item_has_one(questions, expected):
    assert has_blanks([ChoiceItem("1", "", "", q, ("x", "y"), 0) for q in questions]) is expected


def test_a_blank_at_the_end_is_refused(tiny_base):
    with pytest.raises(ConfigError, match=r"nothing follows the blank(?s:.)*choice set one, item 1"):
        choice_rows(tiny_base, one("a", "b", answer=0, question="it was _ "))


def test_chance_is_the_mean_of_uniform_guesses(choices):
    assert chance_accuracy(choices[0].items) == pytest.approx((4 / 2 + 3 / 3) / 7)
