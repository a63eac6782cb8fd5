"""What a base model has read, kept so that texts which begin alike are read once.

In: rows of token ids, and what was read before each. Out: logits where they are wanted, and a `Past` to go on from.
Rows are padded on the right: under causal attention no real token sees its row's padding, and what is read later is
told by a mask which places of the past are real and by positions how far each row is. Refused: nothing; whether a model
allows all this is found out by `tclora.models.branches.shares_past`.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tclora.models.base import Base
from tclora.shapes import Bool, Float, Int

__all__ = ["Past", "pad_right", "read_prefix", "read_rows", "target_scores"]

_MAX_LOGITS = 2**25
"""Logits made at once: 128 MiB in float32, whatever the vocabulary."""


@dataclass(frozen=True)
class Past:
    """Key-values of rows already read, and which places are tokens and not padding."""

    cache: Any
    real: Bool[Tensor, "rows width"]

    def rows(self, indices: Sequence[int]) -> "Past":
        """A copy that holds these rows, in this order; a row may stand in it more than once."""
        picked = torch.tensor(list(indices), device=self.real.device)
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(picked)
        return Past(cache, self.real[picked])


def read_prefix(base: Base, ids: Sequence[int]) -> Past:
    """Read one row that many others begin with."""
    _, past = read_rows(base, None, [tuple(ids)], torch.zeros(1, len(ids), dtype=torch.bool))
    return past


def read_rows(
    base: Base, past: Past | None, rows: Sequence[tuple[int, ...]], wanted: Bool[Tensor, "rows width"]
) -> tuple[Callable[[slice], Tensor], Past]:
    """Read rows of ids behind their past, which grows by them and must not be used again.

    `wanted` marks, in the padded rows, the positions whose logits are needed.

    Returns:
        a function from a slice of the wanted positions, row by row, to their logits (n, vocabulary); the new past.
    """
    ids, real = pad_right(rows, base.device)
    known = inspect.signature(base.model.forward).parameters
    options: dict[str, Any] = {"use_cache": True}
    if past is not None:
        real = torch.cat([past.real, real], dim=1)
        options |= {"past_key_values": past.cache, "attention_mask": real.long()}
        if "position_ids" in known:
            options["position_ids"] = (real.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    wanted = wanted.to(base.device)
    if base.split_head:
        out = base.model.base_model(input_ids=ids, **options)
        hidden, head = out.last_hidden_state[wanted], base.model.get_output_embeddings()
        return lambda part: head(hidden[part]), Past(out.past_key_values, real)
    out = base.model(input_ids=ids, **options)
    logits = out.logits[wanted]
    return lambda part: logits[part], Past(out.past_key_values, real)


def target_scores(
    base: Base, logits: Callable[[slice], Tensor], targets: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """The log-probability of each target in nats (float64), and whether it is the likeliest token."""
    step = max(1, _MAX_LOGITS // base.model.config.get_text_config().vocab_size)
    values = [torch.zeros(0, dtype=torch.float64, device=targets.device)]
    likeliest = [torch.zeros(0, dtype=torch.bool, device=targets.device)]
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        found, wanted = logits(part).float(), targets[part]
        values.append(-torch.nn.functional.cross_entropy(found, wanted, reduction="none").double())
        likeliest.append(found.argmax(dim=-1) == wanted)
    return torch.cat(values), torch.cat(likeliest)


def pad_right(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """Ids padded with 0 on the right, and which of them are real."""
    width = max(1, max(len(row) for row in rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        real[index, : len(row)] = True
    return ids.to(device), real.to(device)
