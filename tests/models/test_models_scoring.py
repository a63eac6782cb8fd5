"""Losses, hidden states and answers against the model's own forward pass, one row at a time and without padding."""

import dataclasses

import numpy as np
import pytest
import torch

from tclora.errors import ConfigError
from tclora.models import (
    Tokens,
    greedy_answers,
    mean_hidden_states,
    response_losses,
    tokenize_example,
    tokenize_prompt,
    tokenize_text,
)

# Float32 sums in another order: a few epsilons a token, some hundred of them through six layers.
RTOL = 1e-5


@pytest.fixture(params=["seed_lm", "gpt2", "gemma2"])
def base(request):
    return dataclasses.replace(request.getfixturevalue(request.param), max_length=64)


def own_loss(base, row):
    ids = torch.tensor([row.ids])
    labels = ids.clone()
    labels[:, : row.n_prompt] = -100
    with torch.no_grad():
        return float(base.model(input_ids=ids, labels=labels).loss) * row.n_scored


def test_losses_equal_the_models_own(base, examples):
    tokens = [tokenize_example(base, example) for example in examples]
    sums, counts = response_losses(base, tokens, batch_size=2)
    assert counts.tolist() == [row.n_scored for row in tokens]
    np.testing.assert_allclose(sums, [own_loss(base, row) for row in tokens], rtol=RTOL)


def test_the_batch_size_changes_nothing(base, examples):
    tokens = [tokenize_example(base, example) for example in examples]
    alone, together = (response_losses(base, tokens, batch_size=size)[0] for size in (1, 5))
    np.testing.assert_allclose(alone, together, rtol=RTOL)


def test_logits_in_chunks_change_nothing(seed_lm, examples, monkeypatch):
    tokens = [tokenize_example(seed_lm, example) for example in examples]
    whole = response_losses(seed_lm, tokens, batch_size=5)[0]
    monkeypatch.setattr("tclora.models.scoring._MAX_LOGITS", 3 * 4096)
    np.testing.assert_allclose(response_losses(seed_lm, tokens, batch_size=5)[0], whole, rtol=RTOL)


def test_a_row_without_a_response_has_no_loss(seed_lm):
    sums, counts = response_losses(seed_lm, [Tokens((1, 5, 6), 3), Tokens((1,), 0)], batch_size=2)
    assert sums.tolist() == [0, 0] and counts.tolist() == [0, 0]


def test_a_batch_of_no_rows_is_refused(seed_lm):
    with pytest.raises(ConfigError, match="a batch needs rows"):
        response_losses(seed_lm, [Tokens((1, 5), 1)], batch_size=0)


def test_hidden_states_are_means_over_the_tokens_behind_bos(seed_lm):
    texts = ["one", "a somewhat longer text about rivers", ""]
    rows = mean_hidden_states(seed_lm, texts, batch_size=3)
    for row, text in zip(rows, texts, strict=True):
        with torch.no_grad():
            hidden = seed_lm.model.base_model(torch.tensor([tokenize_text(seed_lm, text).ids])).last_hidden_state[0]
        expected = hidden[1:].mean(0) if text else hidden[0]
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_answers_in_a_batch_equal_answers_alone(base, examples):
    prompts = [tokenize_prompt(base, example) for example in examples]
    together = greedy_answers(base, prompts, max_new_tokens=8, batch_size=5)
    alone = [greedy_answers(base, [prompt], max_new_tokens=8, batch_size=1)[0] for prompt in prompts]
    assert together == alone


def test_answers_equal_those_of_generate(seed_lm, examples):
    prompt = tokenize_prompt(seed_lm, examples[1])
    ids = seed_lm.model.generate(torch.tensor([prompt.ids]), max_new_tokens=12, do_sample=False)[0, prompt.n_prompt :]
    expected = seed_lm.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert greedy_answers(seed_lm, [prompt], max_new_tokens=12, batch_size=1) == [expected]


def test_an_empty_prompt_cannot_be_completed(seed_lm):
    with pytest.raises(ConfigError, match="nothing to generate"):
        greedy_answers(seed_lm, [Tokens((), 0)], max_new_tokens=3, batch_size=1)
