"""Answers of the adapters themselves, in place of labels.

In: a base, one adapter per pool and pools of examples. Out: token rows of each prompt followed by what its own adapter
answers, drawn at temperature 1 with a seed of its own. Responses that the examples hold are never read. A text that
asks nothing is its own row, every position scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tclora.adapters import Adapter
from tclora.models import (
    Base,
    Completion,
    ExampleLike,
    Tokens,
    attached,
    complete_prompts,
    scored_everywhere,
    tokenize_example,
    tokenize_start,
)

__all__ = ["answered"]


@dataclass(frozen=True)
class _Answered:
    """An example with another response."""

    instruction: str
    input: str
    output: str
    history: tuple[Any, ...]


def answered(
    base: Base,
    adapter: Adapter,
    pool: Sequence[ExampleLike],
    *,
    max_new_tokens: int,
    batch_size: int,
    seed: Sequence[int],
) -> list[Tokens]:
    """Let `adapter` answer the prompts of `pool`; `seed` and a row's place decide what is drawn for it.

    Raises:
        AdapterMismatchError: the adapter does not fit the base.
    """
    asking = [k for k, example in enumerate(pool) if example.instruction or example.input or example.history]
    prompts = [tokenize_start(base, pool[k], room=max_new_tokens) for k in asking]
    wanted = [
        Completion(row.ids, max_new_tokens, temperature=1.0, seed=_seed(seed, k))
        for k, row in zip(asking, prompts, strict=True)
    ]
    rows = {k: scored_everywhere(tokenize_example(base, pool[k]).ids) for k in range(len(pool)) if k not in asking}
    with attached(base, adapter):
        for picked, texts in complete_prompts(base, wanted, batch_size=batch_size, share=False):
            for index, text in zip(picked, texts, strict=True):
                example = pool[asking[index]]
                whole = _Answered(example.instruction, example.input, text, example.history)
                rows[asking[index]] = tokenize_example(base, whole)
    return [rows[k] for k in range(len(pool))]


def _seed(key: Sequence[int], k: int) -> int:
    return int(np.random.SeedSequence([*key, k]).generate_state(1)[0])
