"""Prompts and token ids: the layout, the boundary and the cuts."""

import copy
import dataclasses

import pytest

from tclora.data import Example, Turn
from tclora.errors import ConfigError
from tclora.models import Template, prompt_text, tokenize_example, tokenize_pair, tokenize_prompt, tokenize_text

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def chat(seed_lm):
    tokenizer = copy.deepcopy(seed_lm.tokenizer)
    tokenizer.chat_template = CHATML
    return dataclasses.replace(seed_lm, tokenizer=tokenizer, template=Template("chat"))


def short(base, max_length):
    return dataclasses.replace(base, max_length=max_length)


def test_the_plain_layout_is_the_documented_one(seed_lm):
    row = tokenize_example(seed_lm, Example("Add.", input="1 2", output="3"))
    text = seed_lm.tokenizer.decode(row.ids)
    assert text == "<|bos|>### Instruction:\nAdd.\n1 2\n\n### Response:\n3<|eos|>"


def test_history_comes_before_the_instruction(seed_lm):
    turns = (Turn("system", "Be brief."), Turn("user", "Hi."), Turn("assistant", "Hello."))
    text = prompt_text(seed_lm, Example("Bye.", history=turns))
    assert text == (
        "Be brief.\n\n### Instruction:\nHi.\n\n### Response:\nHello.\n\n### Instruction:\nBye.\n\n### Response:\n"
    )


def test_generation_sees_the_prompt_that_training_saw(seed_lm, examples):
    for example in examples:
        row, prompt = tokenize_example(seed_lm, example), tokenize_prompt(seed_lm, example)
        assert row.ids[: row.n_prompt] == prompt.ids


def test_a_text_that_asks_nothing_is_all_response(seed_lm):
    row = tokenize_example(seed_lm, Example("", output="Some text."))
    assert row.n_prompt == 1 and seed_lm.tokenizer.decode(row.ids) == "<|bos|>Some text.<|eos|>"


def test_the_chat_template_decides_its_own_special_tokens(chat):
    row = tokenize_example(chat, Example("Hi.", output="Hello."))
    text = chat.tokenizer.decode(row.ids)
    assert text == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>"
    assert chat.tokenizer.decode(row.ids[row.n_prompt :]) == "Hello.<|im_end|>"


def test_a_chat_template_that_raises_is_named(chat):
    chat.tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(ConfigError, match="no system turns"):
        tokenize_prompt(chat, Example("Hi."))


def test_a_long_prompt_loses_tokens_on_the_left_behind_bos(seed_lm):
    example = Example("word " * 100, output="yes")
    whole, cut = tokenize_example(seed_lm, example), tokenize_example(short(seed_lm, 40), example)
    assert (len(cut.ids), cut.truncated, whole.truncated) == (40, True, False)
    assert cut.ids[0] == whole.ids[0] and cut.ids[1:] == whole.ids[-39:]


def test_a_long_response_leaves_a_quarter_of_the_window_to_the_prompt(seed_lm):
    cut = tokenize_example(short(seed_lm, 40), Example("word " * 100, output="yes " * 100))
    assert (len(cut.ids), cut.n_prompt, cut.n_scored) == (40, 10, 30)


def test_a_window_of_one_token_scores_nothing(seed_lm):
    assert tokenize_example(short(seed_lm, 1), Example("a", output="b")).n_scored == 0


def test_a_pair_is_encoded_as_running_text(seed_lm):
    pair = tokenize_pair(seed_lm, "The sky is ", "blue today")
    assert pair.ids[1:] == tokenize_text(seed_lm, "The sky is blue today").ids[1:]
    assert seed_lm.tokenizer.decode(pair.ids[pair.n_prompt :]) == " blue today"


def test_a_pair_always_has_a_token_before_its_continuation(seed_lm):
    assert tokenize_pair(seed_lm, "", "blue").n_prompt == 1


def test_eos_of_a_pair_is_asked_for(seed_lm):
    eos = seed_lm.tokenizer.eos_token_id
    assert tokenize_pair(seed_lm, "a", "b", add_eos=True).ids[-1] == eos
    assert tokenize_pair(seed_lm, "a", "b").ids[-1] != eos
