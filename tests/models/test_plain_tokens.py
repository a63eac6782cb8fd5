"""Plain prompts become the tokens that lm-eval would make of them."""

import copy
import dataclasses

import pytest

from tclora.models import tokenize_plain, tokenize_start

PAIRS = [
    ("Question: Why?\nAnswer:", " Because."),
    ("Ends in blanks  ", "then goes on"),
    ("Ends in a line\n", "then goes on"),
    ("One", " two three"),
    ("", "No prompt at all"),
    ("Ünïcode « ", "naïve"),
    ("<|bos|>Said already:", " yes"),
]


def adding_bos(seed_lm):
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(seed_lm.tokenizer)
    special = [("<|bos|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=special)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def ending_words_in_blanks(seed_lm):
    """Most texts have a token across the boundary: a blank belongs to the word before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<|bos|>": 0, "<|eos|>": 1, "▁": 2, "\n": 3}
    vocabulary |= {chr(code): 4 + i for i, code in enumerate(range(33, 127))}
    ends = {f"{letter}▁": len(vocabulary) + i for i, letter in enumerate("bcdefghilnorstwy:")}
    merges = [(end[0], "▁") for end in ends]
    inner = Tokenizer(models.BPE(vocab=vocabulary | ends, merges=merges, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|bos|>", eos_token="<|eos|>")


@pytest.fixture(params=[None, adding_bos, ending_words_in_blanks], ids=["as it is", "adds bos", "blanks end words"])
def base(request, seed_lm):
    return seed_lm if request.param is None else dataclasses.replace(seed_lm, tokenizer=request.param(seed_lm))


@pytest.fixture
def lm_eval_model(base):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    return huggingface.HFLM(pretrained=base.model, tokenizer=copy.deepcopy(base.tokenizer), max_length=base.max_length)


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_context_and_continuation_are_cut_where_lm_eval_cuts_them(base, lm_eval_model, pair):
    from lm_eval.api.instance import Instance

    seen = []
    lm_eval_model._loglikelihood_tokens = lambda requests, **_: seen.extend(requests)
    lm_eval_model.loglikelihood([Instance("loglikelihood", {}, pair, 0)], disable_tqdm=True)
    ((_, context, continuation),) = seen
    row = tokenize_plain(base, *pair)
    assert (list(row.ids[: row.n_prompt]), list(row.ids[row.n_prompt :])) == (context, continuation)


@pytest.mark.parametrize("text", [context for context, _ in PAIRS if context])
def test_a_prompt_to_generate_behind_is_lm_evals(base, lm_eval_model, text):
    ids, _ = lm_eval_model.tok_batch_encode([text])
    assert list(tokenize_start(base, text, room=8).ids) == ids[0].tolist()


def test_some_texts_have_a_token_across_the_boundary(seed_lm):
    base = dataclasses.replace(seed_lm, tokenizer=ending_words_in_blanks(seed_lm))
    prompt, text = PAIRS[0]
    ids = base.tokenizer(prompt + text)["input_ids"]
    assert ids[: len(base.tokenizer(prompt)["input_ids"])] != base.tokenizer(prompt)["input_ids"]


def test_a_continuation_within_the_last_token_is_scored_where_lm_eval_fails(seed_lm):
    prompt, text = "th", "e"
    assert len(seed_lm.tokenizer(prompt + text)["input_ids"]) == len(seed_lm.tokenizer(prompt)["input_ids"])
    row = tokenize_plain(seed_lm, prompt, text)
    assert seed_lm.tokenizer.decode(row.ids, skip_special_tokens=True) == "the"
    assert row.n_scored == 1


def test_a_long_prompt_keeps_its_bos_and_its_end(seed_lm):
    row = tokenize_plain(seed_lm, "<|bos|>" + "word " * 400, "end")
    assert row.truncated
    assert len(row.ids) == seed_lm.max_length
    assert row.ids[0] == seed_lm.tokenizer.bos_token_id
    assert seed_lm.tokenizer.decode(row.ids[row.n_prompt :]) == " end"
