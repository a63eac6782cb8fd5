"""Gradient descent on adapter weights and nothing else, through the frozen base.

In: a table of numbers, how a row of it becomes the weights of a module, what is to be lowered, and pools of tokens.
Out: the loss over all tokens before and after; the table changes in place. A step takes a batch from each pool, drawn
without replacement until the pool is used up; the loss is the mean over the pools of the mean per token, so how rows
are split into passes weighs nothing. Refused: a loss or gradient that is not finite.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tclora.adapters import Adapter
from tclora.merging.learning.steps import check_step, drawn_batches
from tclora.models import (
    Base,
    TokenBatch,
    Tokens,
    attached_together,
    batches_by_length,
    collate,
    max_pass_tokens,
)

__all__ = ["Descent", "descend"]

Progress = Callable[[int, int], None]

_MAX_LOGITS = 2**26
"""Logits of one pass: with their logarithms and the gradient, below a gigabyte in float32."""


@dataclass(frozen=True)
class Descent:
    """What is lowered, and how. `weights_of(table, module)` gives (n,); `confine` changes the table in place."""

    base: Base
    adapters: Sequence[Adapter]
    pools: Sequence[Sequence[Tokens]]
    weights_of: Callable[[Tensor, str], Tensor]
    losses: Callable[[Base, TokenBatch], Tensor]
    lr: float
    steps: int
    batch_size: int
    seed: int
    confine: Callable[[Tensor], object] = lambda table: None


def descend(descent: Descent, table: Tensor, on_progress: Progress | None = None) -> tuple[float, float]:
    """Take the steps of Adam on `table`.

    Returns:
        the loss over all tokens before and after, in nats per token.

    Raises:
        AdapterMismatchError: an adapter does not fit the base.
        NumericalError: a loss or a gradient is NaN or infinite.

    Source: Kingma and Ba 2014, arXiv 1412.6980.
    """
    table.requires_grad_(True)
    optimizer = torch.optim.Adam([table], lr=descent.lr)
    with attached_together(descent.base, descent.adapters, lambda name: descent.weights_of(table, name)):
        before = _whole_loss(descent)
        for step, rows in enumerate(zip(*_draws(descent), strict=True)):
            loss = sum(_backward(descent, pool) for pool in rows)
            check_step("learning the adapter weights", step, loss, [table.grad])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                descent.confine(table)
            if on_progress is not None:
                on_progress(step + 1, descent.steps)
        after = _whole_loss(descent)
    table.requires_grad_(False)
    return before, after


def _backward(descent: Descent, rows: Sequence[Tokens]) -> float:
    """Add one pool's share of the gradient; its share of the loss."""
    whole, n_scored = 0.0, sum(row.n_scored for row in rows) * len(descent.pools)
    for batch in _passes(descent, rows):
        loss = descent.losses(descent.base, batch).sum() / n_scored
        loss.backward()
        whole += float(loss.detach())
    return whole


@torch.no_grad()
def _whole_loss(descent: Descent) -> float:
    means = []
    for rows in descent.pools:
        sums = [float(descent.losses(descent.base, batch).double().sum()) for batch in _passes(descent, rows)]
        means.append(sum(sums) / sum(row.n_scored for row in rows))
    return sum(means) / len(means)


def _passes(descent: Descent, rows: Sequence[Tokens]) -> Iterator[TokenBatch]:
    """Rows of similar length together, no more than memory and speed allow."""
    device = descent.base.device
    vocabulary = descent.base.model.config.get_text_config().vocab_size
    limit = min(max_pass_tokens(device), _MAX_LOGITS // vocabulary)
    longest = max(len(row.ids) for row in rows)
    size = max(1, min(descent.batch_size, limit // longest))
    for indices in batches_by_length([len(row.ids) for row in rows], size, device):
        yield collate([rows[index] for index in indices], device=device)


def _draws(descent: Descent) -> list[Iterator[list[Tokens]]]:
    """For each pool its batches, one per step."""
    return [
        drawn_batches(pool, descent.batch_size, descent.steps, np.random.default_rng([descent.seed, k]))
        for k, pool in enumerate(descent.pools)
    ]
