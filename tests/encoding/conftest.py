"""A sentence-transformers model small enough to make in a test."""

from pathlib import Path

import pytest
from made_texts import TEXTS


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory) -> Path:
    """A tiny BERT with random weights, as a sentence-transformers folder with a prompt that must not be used."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models")
    words = sorted({word for text in TEXTS for word in text.replace(".", " .").split()})
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words, "query", ":"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder / "bert"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
        BertModel(small).save_pretrained(folder / "bert")
        model = sentence_transformers.SentenceTransformer(str(folder / "bert"), device="cpu")
    model.prompts, model.default_prompt_name = {"query": "query : "}, "query"
    model.save(str(folder / "sentence"))
    return folder / "sentence"
