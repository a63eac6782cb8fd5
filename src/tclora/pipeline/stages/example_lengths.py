"""How long every example is: in the base's tokens where its tokenizer can be had cheaply, else in words.

In: the settings and the training examples. Out: `Lengths`, one number per example and what it counts. Tokens are those
that training puts through the model: prompt and response in the base's template, cut to `base.max_length`. Refused:
`cluster.count: tokens` where the tokenizer cannot be read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.artifacts import digest_of, sha256_file
from tclora.clustering import n_words
from tclora.config import RunConfig
from tclora.data import Example
from tclora.errors import ConfigError, MissingExtraError
from tclora.models import Base, local_base_path, prompt_text
from tclora.models.skeleton import load_skeleton

__all__ = ["Lengths", "example_lengths", "tokenizer_digest"]

# With `count: auto`, more examples than this are counted in words: tokens would take minutes.
_MAX_TOKENIZED = 200_000
_BATCH = 1024
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "chat_template*", "config.json")


@dataclass(frozen=True, eq=False)
class Lengths:
    """The length of each example, what it is counted in, and why not in tokens where that was asked for."""

    counts: np.ndarray
    unit: str
    note: str | None = None


def example_lengths(config: RunConfig, examples: Sequence[Example]) -> Lengths:
    """The lengths of the examples by the setting `cluster.count`.

    Raises:
        ConfigError: `count: tokens`, and the base's tokenizer cannot be read.
        MissingExtraError: `count: tokens`, and transformers is not installed.
    """
    if not _wants_tokens(config, len(examples)):
        return Lengths(_words(examples), "words")
    try:
        base = load_skeleton(config.base)
    except (ConfigError, MissingExtraError) as error:
        if config.cluster.count == "tokens":
            raise
        return Lengths(_words(examples), "words", f"lengths are counted in words: {error.what}")
    return Lengths(np.array(list(_token_counts(base, examples)), dtype=np.int64), "tokens")


def tokenizer_digest(config: RunConfig, n_examples: int) -> str | None:
    """What the lengths depend on beside the examples; None where words are counted."""
    if not _wants_tokens(config, n_examples):
        return None
    folder = local_base_path(config.base)
    where = [config.base.path, config.base.revision]
    files = (
        {} if folder is None else {p.name: sha256_file(p) for pattern in _TOKENIZER_FILES for p in folder.glob(pattern)}
    )
    settings = config.base.model_dump(mode="json", include={"template", "max_length"})
    return digest_of({"files": files, "settings": settings, "where": where if folder is None else None})


def _wants_tokens(config: RunConfig, n_examples: int) -> bool:
    if config.cluster.count != "auto":
        return config.cluster.count == "tokens"
    return n_examples <= _MAX_TOKENIZED and local_base_path(config.base) is not None


def _words(examples: Sequence[Example]) -> np.ndarray:
    return np.array([n_words(example) for example in examples], dtype=np.int64)


def _token_counts(base: Base, examples: Sequence[Example]) -> Iterator[int]:
    """As `tokenize_example` counts, a thousand at a time: tokenizers are many times faster on batches."""
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        prompts = _ids(base, [prompt_text(base, example) for example in batch])
        responses = _ids(base, [base.template.response(example, base.tokenizer) for example in batch])
        for prompt, response in zip(prompts, responses, strict=True):
            yield min(_with_start(base, prompt) + len(response), base.max_length)


def _with_start(base: Base, prompt: list[int]) -> int:
    """The length of a prompt with the bos that the template wants; before a response there is one token at least."""
    bos = base.tokenizer.bos_token_id
    wants_bos = bos is not None and (base.template.add_bos or not prompt) and prompt[:1] != [bos]
    return max(1, len(prompt) + int(wants_bos))


def _ids(base: Base, texts: list[str]) -> list[list[int]]:
    return base.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
