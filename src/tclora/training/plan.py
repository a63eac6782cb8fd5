"""Which examples make up which optimizer step, known before the first one.

In: tokenized examples, the settings and a seed. Out: every batch of the run and the learning rate of every step. Epoch
e goes through the examples in an order drawn by a local generator from (seed, e); batches are cut from the epochs end
to end, so only the last can be smaller. Since nothing is drawn later, a run resumed at step s is the run.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.config import TrainConfig
from tclora.models import Tokens

__all__ = ["Plan", "expected_steps", "learning_rate", "loss_scale", "plan_batches", "split_rows"]

_FLOAT16_SCALE = 1024.0
"""float16 gradients of a small loss underflow; a fixed power of two moves them up and keeps no state to save."""


@dataclass(frozen=True)
class Plan:
    """The examples of each step by index, longest first, and what they come to."""

    batches: tuple[tuple[int, ...], ...]
    n_tokens: int
    n_response_tokens: int


def plan_batches(tokens: Sequence[Tokens], params: TrainConfig, *, seed: int, max_tokens: int | None) -> Plan:
    """Lay out the run: `epochs` bounded by `max_steps`, or as many whole batches as `max_tokens` pays for.

    There is always at least one batch, even where the first alone exceeds the budget.
    """
    lengths = np.array([len(row.ids) for row in tokens])
    stream = _batches(len(tokens), params.batch_size, seed)
    if max_tokens is None:
        chosen = list(itertools.islice(stream, expected_steps(len(tokens), params)))
        # The last step of a full run holds what the epochs leave over.
        left_over = _n_rows(len(tokens), params) - (len(chosen) - 1) * params.batch_size
        chosen[-1] = chosen[-1][:left_over]
    else:
        chosen = list(_within(stream, lengths, max_tokens))
    every = np.concatenate(chosen)
    return Plan(
        batches=tuple(tuple(batch[np.argsort(-lengths[batch], kind="stable")].tolist()) for batch in chosen),
        n_tokens=int(lengths[every].sum()),
        n_response_tokens=int(np.array([row.n_scored for row in tokens])[every].sum()),
    )


def expected_steps(n_examples: int, params: TrainConfig) -> int:
    """Optimizer steps of a training on `n_examples` examples without a token budget."""
    steps = math.ceil(_n_rows(n_examples, params) / params.batch_size)
    return steps if params.max_steps is None else min(steps, params.max_steps)


def learning_rate(step: int, n_steps: int, params: TrainConfig) -> float:
    """The learning rate of step `step` (from 0): a linear warm-up to `lr`, then the schedule, which ends above 0."""
    n_warmup = math.ceil(params.warmup_fraction * n_steps)
    if step < n_warmup:
        return params.lr * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, n_steps - n_warmup)
    shapes = {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}
    return params.lr * shapes[params.schedule]


def split_rows(lengths: Sequence[int], *, max_rows: int, max_tokens: int, pass_cost: int) -> tuple[slice, ...]:
    """Cut rows, longest first, into the forward passes that cost least.

    A pass costs its rows times its longest row, padding included, and `pass_cost` tokens for being one. Batches mix
    answers of five words with pages of text, so one pass for all is mostly padding. No pass has more than `max_rows`
    rows, or, padding included, more than `max_tokens` tokens unless it is a single row.
    """
    best = [(0, 0)]  # the least cost of the first `end` rows, and where their last pass starts
    for end in range(1, len(lengths) + 1):
        sizes = {start: (end - start) * lengths[start] for start in range(max(0, end - max_rows), end)}
        allowed = {start: size for start, size in sizes.items() if size <= max_tokens or start == end - 1}
        best.append(min((best[start][0] + size + pass_cost, start) for start, size in allowed.items()))
    cuts = [len(lengths)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    cuts.reverse()
    return tuple(slice(start, end) for start, end in itertools.pairwise(cuts))


def _n_rows(n_examples: int, params: TrainConfig) -> int:
    return max(1, round(n_examples * params.epochs))


def _batches(n_examples: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches without end: one epoch's order after another."""
    waiting, epoch = np.empty(0, dtype=np.int64), 0
    while True:
        while len(waiting) < batch_size:
            order = np.random.default_rng([seed, epoch]).permutation(n_examples)
            waiting, epoch = np.concatenate([waiting, order]), epoch + 1
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def _within(stream: Iterator[np.ndarray], lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    first = next(stream)
    spent = lengths[first].sum()
    yield first
    for batch in stream:
        spent += lengths[batch].sum()
        if spent > max_tokens:
            return
        yield batch


def loss_scale(autocast: str) -> float:
    """What the loss is multiplied by before the backward pass, and gradients divided by after it."""
    return _FLOAT16_SCALE if autocast == "float16" else 1.0
