"""Greedy answers, in batches.

In: prompts as `Tokens`. Out: stripped text. Prompts are padded on the left under a mask with matching positions, one
key-value cache serves the batch, and rows that have ended leave it. The token of highest logit is always taken; a
checkpoint's own sampling settings and penalties play no part.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tclora.errors import ConfigError
from tclora.models.base import Base
from tclora.models.scoring import batches_by_length
from tclora.models.tokens import Tokens
from tclora.shapes import Int

__all__ = ["greedy_answers"]


@torch.inference_mode()
def greedy_answers(base: Base, tokens: Sequence[Tokens], *, max_new_tokens: int, batch_size: int) -> list[str]:
    """Complete each prompt greedily until eos, or `max_new_tokens`.

    Only the first `n_prompt` ids of each `Tokens` are read. A row does not depend on its batch beyond float rounding.

    Returns:
        one stripped text for each prompt, special tokens left out.

    Raises:
        ConfigError: `max_new_tokens` or `batch_size` is below 1, or a prompt is empty.
    """
    _check(tokens, max_new_tokens)
    answers = [""] * len(tokens)
    for rows in batches_by_length([row.n_prompt for row in tokens], batch_size, base.device):
        prompts = [tokens[row].ids[: tokens[row].n_prompt] for row in rows]
        for row, ids in zip(rows, _complete(base, prompts, max_new_tokens), strict=True):
            answers[row] = base.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return answers


def _check(tokens: Sequence[Tokens], max_new_tokens: int) -> None:
    empty = next((index for index, row in enumerate(tokens) if row.n_prompt < 1), None)
    if empty is not None or max_new_tokens < 1:
        raise ConfigError(
            "there is nothing to generate",
            where="max_new_tokens" if empty is None else f"prompt {empty}",
            found=max_new_tokens if empty is None else "no tokens",
            expected="1 or more",
            do="raise it" if empty is None else "leave the prompt out",
        )


def _complete(base: Base, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[list[int]]:
    ids, mask = _pad_left(prompts, base.device)
    stop, known = _stop_ids(base), inspect.signature(base.model.forward).parameters
    # Only the last position is read; a prompt's other logits would be most of the work for a small model.
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    answers: list[list[int]] = [[] for _ in prompts]
    alive, cache = list(range(len(prompts))), None
    for _ in range(max_new_tokens):
        # Padding does not count: the first real token of every row stands at position 0.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options |= {"position_ids": positions} if "position_ids" in known else {}
        out = base.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
        cache, chosen = out.past_key_values, out.logits[:, -1].argmax(dim=-1)
        keep = [index for index, token in enumerate(chosen.tolist()) if token not in stop]
        for index in keep:
            answers[alive[index]].append(int(chosen[index]))
        if not keep:
            break
        if len(keep) < len(alive):
            picked = torch.tensor(keep, device=base.device)
            cache.batch_select_indices(picked)
            alive, chosen, mask = [alive[index] for index in keep], chosen[picked], mask[picked]
        ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(keep), 1)], dim=1)
    return answers


def _pad_left(
    prompts: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _stop_ids(base: Base) -> frozenset[int]:
    # Chat models end a turn with a token that only their generation config names.
    listed = getattr(getattr(base.model, "generation_config", None), "eos_token_id", None)
    several = listed if isinstance(listed, list | tuple) else [listed]
    return frozenset(int(i) for i in [*several, base.tokenizer.eos_token_id] if i is not None)
