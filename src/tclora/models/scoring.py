"""Losses of responses, with logits computed only where they are scored.

In: a `Base` and `Tokens`. Out: nats. A batch is padded on the right and goes in without a mask: under causal attention
no real token sees what stands to its right, so padding changes nothing. The output layer is applied only to the
positions that predict a response token (for short answers a few percent of all), where `base.split_head` says that this
is exact; other models compute all logits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tclora.errors import ConfigError
from tclora.models.base import Base
from tclora.models.tokens import Tokens
from tclora.shapes import Bool, Float, Int

__all__ = [
    "TokenBatch",
    "batches_by_length",
    "collate",
    "max_pass_tokens",
    "response_losses",
    "scored_logits",
    "token_losses",
]

_MAX_LOGITS = 2**25
"""Logits made at once while scoring: 128 MiB in float32, whatever the vocabulary."""


@dataclass(frozen=True)
class TokenBatch:
    """Rows of token ids padded on the right; `scored[i, t]` where `ids[i, t + 1]` is a response token."""

    ids: Int[Tensor, "rows length"]
    scored: Bool[Tensor, "rows length_less_1"]


def batches_by_length(lengths: Sequence[int], batch_size: int, device: torch.device) -> Iterator[list[int]]:
    """Indices in batches of rows of similar length, longest first; equal lengths keep their order.

    A batch has at most `batch_size` rows, and fewer where they would hold more tokens than one pass should.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(
            "a batch needs rows", where="batch_size", found=batch_size, expected="1 or more", do="raise it"
        )
    order, start = sorted(range(len(lengths)), key=lambda index: -lengths[index]), 0
    while start < len(order):
        n_rows = max(1, min(batch_size, max_pass_tokens(device) // max(1, lengths[order[start]])))
        yield order[start : start + n_rows]
        start += n_rows


def max_pass_tokens(device: torch.device) -> int:
    """Tokens, padding included, that one forward pass should not exceed unless it is a single row.

    On a CPU larger passes are slower: 32 rows of 300 tokens took 2.4 times as long as the same rows four at a time.
    """
    return 1 << 30 if device.type == "cuda" else 2048


def collate(tokens: Sequence[Tokens], *, device: torch.device) -> TokenBatch:
    """Pad rows on the right. The id that pads is 0: no scored position can see it."""
    width = max(2, max(len(row.ids) for row in tokens))
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    scored = torch.zeros(len(tokens), width - 1, dtype=torch.bool)
    for index, row in enumerate(tokens):
        ids[index, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
        # A first token has nothing before it to be predicted from.
        scored[index, max(0, row.n_prompt - 1) : len(row.ids) - 1] = True
    return TokenBatch(ids.to(device), scored.to(device))


def token_losses(base: Base, batch: TokenBatch) -> Float[Tensor, " n_response"]:
    """Cross-entropy of each response token, row by row, in nats and float32; differentiable."""
    targets = batch.ids[:, 1:][batch.scored]
    logits = scored_logits(base, batch)(slice(None))
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


@torch.no_grad()
def response_losses(base: Base, tokens: Sequence[Tokens], *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Score the response of each example.

    Returns:
        summed nats over the response tokens, float64 (n,), and the number of tokens scored, int64 (n,): divide the
        sums for the mean loss per token. A row without a response has 0 and 0.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    sums = np.zeros(len(tokens), dtype=np.float64)
    counts = np.zeros(len(tokens), dtype=np.int64)
    for rows in batches_by_length([len(row.ids) for row in tokens], batch_size, base.device):
        rows = [row for row in rows if tokens[row].n_scored]
        if not rows:
            continue
        batch = collate([tokens[row] for row in rows], device=base.device)
        per_row = torch.zeros(len(rows), dtype=torch.float64, device=base.device)
        per_row.index_add_(0, batch.scored.nonzero()[:, 0], _losses_in_chunks(base, batch).double())
        sums[rows] = per_row.cpu().numpy()
        counts[rows] = batch.scored.sum(dim=1).cpu().numpy()
    return sums, counts


def _losses_in_chunks(base: Base, batch: TokenBatch) -> Float[Tensor, " n_response"]:
    targets = batch.ids[:, 1:][batch.scored]
    logits = scored_logits(base, batch)
    step = max(1, _MAX_LOGITS // base.model.config.get_text_config().vocab_size)
    chunks = [slice(start, start + step) for start in range(0, len(targets), step)]
    losses = [
        torch.nn.functional.cross_entropy(logits(chunk).float(), targets[chunk], reduction="none") for chunk in chunks
    ]
    return torch.cat(losses)


def scored_logits(base: Base, batch: TokenBatch) -> Callable[[slice], Any]:
    """The forward pass; what it returns gives the logits of a slice of the scored positions."""
    ids = batch.ids[:, :-1]  # nothing is predicted from the last token of the longest row
    if base.split_head:
        hidden = base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[batch.scored]
        head = base.model.get_output_embeddings()
        return lambda part: head(hidden[part])
    logits = base.model(input_ids=ids, use_cache=False).logits[batch.scored]
    return lambda part: logits[part]
