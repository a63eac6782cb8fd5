"""Texts behind prompts: greedy or drawn, until a stop string, eos or a number of tokens.

In: `Completion`s. Out: raw texts, white space kept, cut before the first stop string; special tokens left out. Prompts
are padded on the left, a prefix that all share is read once, one key-value cache serves a batch, and rows that are done
leave it. A drawn text depends on its own seed alone, not on the batch it is in. Refused: empty prompts, answers of no
tokens, temperatures and nucleus sizes outside their range.

Source: nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tclora.errors import ConfigError
from tclora.models.base import Base
from tclora.models.branches import common_length
from tclora.models.reading import read_prefix
from tclora.models.scoring import batches_by_length

__all__ = ["Completion", "complete_prompts", "end_ids"]

# As for likelihoods: a prefix must be worth a pass of its own.
_MIN_PREFIX, _MIN_SPARED = 16, 512
_CONTEXT_IDS = 4
"""Tokens of the prompt decoded with the answer, so that a tokenizer which drops a text's first blank keeps it."""


@dataclass(frozen=True)
class Completion:
    """One prompt to go on from. `seed` matters only where `temperature` is above 0."""

    ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@torch.inference_mode()
def complete_prompts(
    base: Base, wanted: Sequence[Completion], *, batch_size: int, share: bool = True
) -> Iterator[tuple[list[int], list[str]]]:
    """Complete every prompt, a batch at a time, longest first.

    Yields:
        the indices of the prompts that are done, and their texts.

    Raises:
        ConfigError: a prompt is empty, or a setting is outside its range.
    """
    for index, one in enumerate(wanted):
        _check(index, one)
    prefix = _useful_prefix([one.ids for one in wanted]) if share else 0
    past = read_prefix(base, wanted[0].ids[:prefix]) if prefix else None
    for picked in batches_by_length([len(one.ids) - prefix for one in wanted], batch_size, base.device):
        rows = [_Row(base, wanted[index]) for index in picked]
        _complete(base, rows, prefix, None if past is None else past.rows([0] * len(rows)).cache)
        yield picked, [row.text() for row in rows]


def end_ids(base: Base) -> frozenset[int]:
    """Tokens that end an answer: chat models end a turn with one that only their generation config names."""
    listed = getattr(getattr(base.model, "generation_config", None), "eos_token_id", None)
    several = listed if isinstance(listed, list | tuple) else [listed]
    return frozenset(int(i) for i in [*several, base.tokenizer.eos_token_id] if i is not None)


def _check(index: int, one: Completion) -> None:
    facts: list[tuple[bool, str, object, str]] = [
        (len(one.ids) > 0, "tokens", len(one.ids), "a prompt of 1 or more"),
        (one.max_new_tokens > 0, "max_new_tokens", one.max_new_tokens, "1 or more"),
        (0 <= one.temperature < float("inf"), "temperature", one.temperature, "0 or more"),
        (0 < one.top_p <= 1, "top_p", one.top_p, "above 0, at most 1"),
        (all(one.stop), "stop", one.stop, "texts of at least one character"),
    ]
    for holds, name, found, expected in facts:
        if not holds:
            where = f"prompt {index}, {name}"
            raise ConfigError("a text cannot be generated as asked", where=where, found=found, expected=expected)


def _useful_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    # At least one token of each prompt is left, for it predicts the first of the answer.
    length = min(common_length(rows), min(map(len, rows)) - 1) if rows else 0
    return length if length >= _MIN_PREFIX and length * (len(rows) - 1) >= _MIN_SPARED else 0


class _Row:
    """One answer in the making."""

    def __init__(self, base: Base, wanted: Completion):
        self.wanted, self.ids, self.ends = wanted, list[int](), end_ids(base)
        self._decode = _decoder(base, wanted.ids)
        # A character takes at most four tokens of a byte each, so a stop string is within these last ones.
        self._tail = 4 * max(map(len, wanted.stop), default=0) + 8
        # Drawn on the CPU, so that equal seeds give equal texts whatever the device.
        self._generator = torch.Generator().manual_seed(wanted.seed) if wanted.temperature > 0 else None

    def take(self, likeliest: int, logits: Tensor) -> bool:
        """Add the next token; whether the answer goes on."""
        token = likeliest if self._generator is None else _draw(logits, self.wanted, self._generator)
        if token in self.ends:
            return False
        self.ids.append(token)
        return len(self.ids) < self.wanted.max_new_tokens and not self._has_stopped()

    def text(self) -> str:
        """The answer, up to its first stop string."""
        text = self._decode(self.ids)
        return text[: min((text.find(stop) for stop in self.wanted.stop if stop in text), default=len(text))]

    def _has_stopped(self) -> bool:
        if not self.wanted.stop:
            return False
        near = self._decode(self.ids[-self._tail :])
        if not any(stop in near for stop in self.wanted.stop):
            return False
        # The tail alone may be decoded in another way than the whole.
        whole = self._decode(self.ids)
        return any(stop in whole for stop in self.wanted.stop)


def _decoder(base: Base, prompt: tuple[int, ...]) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        return base.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    context = list(prompt[-_CONTEXT_IDS:])
    before = decode(context)

    def of_answer(ids: list[int]) -> str:
        whole = decode(context + ids)
        return whole[len(before) :] if whole.startswith(before) else decode(ids)

    return of_answer


def _draw(logits: Tensor, wanted: Completion, generator: torch.Generator) -> int:
    chances = torch.softmax(logits.double().cpu() / wanted.temperature, dim=-1)
    ordered, order = chances.sort(descending=True, stable=True)
    # A token belongs to the nucleus while those before it hold less than `top_p`.
    kept = ordered * (ordered.cumsum(0) - ordered < wanted.top_p)
    return int(order[torch.multinomial(kept, 1, generator=generator)])


def _complete(base: Base, rows: Sequence[_Row], prefix: int, cache: Any) -> None:
    ids, mask = _pad_left([row.wanted.ids[prefix:] for row in rows], prefix, base.device)
    known = inspect.signature(base.model.forward).parameters
    # Only the last position is read; a prompt's other logits would be most of the work for a small model.
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    alive = list(rows)
    while True:
        # Padding does not count: the first real token of every row stands at position 0.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options |= {"position_ids": positions} if "position_ids" in known else {}
        out = base.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
        cache, logits = out.past_key_values, out.logits[:, -1]
        likeliest = logits.argmax(dim=-1).tolist()
        keep = [index for index, row in enumerate(alive) if row.take(likeliest[index], logits[index])]
        if not keep:
            return
        if len(keep) < len(alive):
            picked = torch.tensor(keep, device=base.device)
            cache.batch_select_indices(picked)
            alive, mask = [alive[index] for index in keep], mask[picked]
        ids = torch.tensor([[row.ids[-1]] for row in alive], device=base.device)
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)


def _pad_left(rows: Sequence[tuple[int, ...]], prefix: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids padded on the left, and the mask of prefix, padding and ids."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), prefix + width, dtype=torch.long)
    mask[:, :prefix] = 1
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, prefix + width - len(row) :] = 1
    return ids.to(device), mask.to(device)
