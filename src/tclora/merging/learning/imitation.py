"""Moving a student's free numbers until it predicts what each teacher predicts on that teacher's own rows.

In: a base, teachers, one pool of rows per teacher, a `Student`. Out: the mean divergence in nats per scored token on
the rows kept back, before and after; the student is changed in place. A step takes a batch from each pool; the loss
is the mean over the pools of the mean KL(teacher || student) per token. Refused: a loss or gradient that is not finite.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tclora.adapters import Adapter
from tclora.errors import NumericalError
from tclora.merging.learning.student import Student
from tclora.models import Base, TokenBatch, Tokens, attached, batches_by_length, collate, max_pass_tokens
from tclora.models.scoring import scored_logits
from tclora.shapes import Float

__all__ = ["Imitation", "divergences", "imitate"]

_KEPT_BACK = 8
"""One row in so many of a pool is kept back, where the pool has as many."""
_LOOKS = 5
"""How often the rows kept back are asked on the way."""
_STRETCHES = (1.5, 2.25, 3.4, 5.0)
"""Scales of the start that are tried, beside 1: a mean of many adapters is shorter than what serves them best."""
_START_ROWS = 4
_MAX_LOGITS = 2**25


@dataclass(frozen=True)
class Imitation:
    """Teachers with their rows, and Adam's settings; `batch_size` is per pool."""

    base: Base
    teachers: Sequence[Adapter]
    pools: Sequence[Sequence[Tokens]]
    lr: float
    steps: int
    batch_size: int
    seed: int


def divergences(base: Base, teacher: Adapter, student: Adapter, batch: TokenBatch) -> Float[torch.Tensor, " n_scored"]:
    """KL(teacher || student) of the next token at each scored position, in nats; a gradient reaches the student."""
    with torch.no_grad(), attached(base, teacher):
        wanted = torch.log_softmax(scored_logits(base, batch)(slice(None)).float(), dim=-1)
    with attached(base, student):
        found = torch.log_softmax(scored_logits(base, batch)(slice(None)).float(), dim=-1)
    return (wanted.exp() * (wanted - found)).sum(dim=-1)


def imitate(setting: Imitation, student: Student, told: Callable[[int], None]) -> tuple[float, float]:
    """Stretch the start, take the steps, keep the best state on the rows kept back.

    Returns:
        the mean divergence on the rows kept back (all rows, where pools are too small), before and after.

    Raises:
        AdapterMismatchError: a teacher does not fit the base.
        NumericalError: a loss or a gradient is NaN or infinite.

    Source: Kingma and Ba 2014, arXiv 1412.6980 (Adam).
    """
    moving, kept_back = _split(setting)
    before = _loss(setting, student, kept_back)
    _stretch(setting, student, moving)
    optimizer = torch.optim.Adam(student.groups(setting.lr))
    rates = [group["lr"] for group in optimizer.param_groups]
    best, state = _loss(setting, student, kept_back), student.copy()
    draws = [_batches(setting, pool, k) for k, pool in enumerate(moving)]
    for step, rows in enumerate(zip(*draws, strict=True)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / setting.steps)
        loss = _backward(setting, student, rows)
        _check(step, loss, student)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told(step + 1)
        if step + 1 == setting.steps or (step + 1) % max(1, setting.steps // _LOOKS) == 0:
            found = _loss(setting, student, kept_back)
            best, state = (found, student.copy()) if found < best else (best, state)
    student.restore(state)
    return before, best


def _split(setting: Imitation) -> tuple[list[list[Tokens]], list[list[Tokens]]]:
    """The rows that move the student and those kept back; both are all rows where any pool is small."""
    if min(map(len, setting.pools)) < _KEPT_BACK:
        return [list(pool) for pool in setting.pools], [list(pool) for pool in setting.pools]
    moving, kept_back = [], []
    for k, pool in enumerate(setting.pools):
        order = np.random.default_rng([setting.seed, k, 0]).permutation(len(pool))
        n_back = len(pool) // _KEPT_BACK
        kept_back.append([pool[i] for i in order[:n_back]])
        moving.append([pool[i] for i in order[n_back:]])
    return moving, kept_back


def _stretch(setting: Imitation, student: Student, pools: Sequence[Sequence[Tokens]]) -> None:
    """Walk up the scales while the loss on a few rows of each pool falls."""
    few = [pool[:_START_ROWS] for pool in pools]
    lowest, held = _loss(setting, student, few), 1.0
    for scale in _STRETCHES:
        kept = student.copy()
        student.stretch(scale / held)
        loss = _loss(setting, student, few)
        if not loss < lowest:
            student.restore(kept)
            return
        lowest, held = loss, scale


@torch.no_grad()
def _loss(setting: Imitation, student: Student, pools: Sequence[Sequence[Tokens]]) -> float:
    adapter, means = student.adapter(), []
    for teacher, rows in zip(setting.teachers, pools, strict=True):
        sums = [
            float(divergences(setting.base, teacher, adapter, batch).double().sum()) for batch in _passes(setting, rows)
        ]
        means.append(sum(sums) / max(1, sum(row.n_scored for row in rows)))
    return sum(means) / len(means)


def _backward(setting: Imitation, student: Student, pools: Sequence[Sequence[Tokens]]) -> float:
    whole = 0.0
    for teacher, rows in zip(setting.teachers, pools, strict=True):
        n_scored = max(1, sum(row.n_scored for row in rows)) * len(pools)
        for batch in _passes(setting, rows):
            loss = divergences(setting.base, teacher, student.adapter(), batch).sum() / n_scored
            loss.backward()
            whole += float(loss.detach())
    return whole


def _passes(setting: Imitation, rows: Sequence[Tokens]) -> Iterator[TokenBatch]:
    """Rows of similar length together, no more than memory and speed allow."""
    device = setting.base.device
    vocabulary = setting.base.model.config.get_text_config().vocab_size
    longest = max(len(row.ids) for row in rows)
    size = max(1, min(len(rows), max_pass_tokens(device) // longest, _MAX_LOGITS // (vocabulary * longest)))
    for indices in batches_by_length([len(row.ids) for row in rows], size, device):
        yield collate([rows[index] for index in indices], device=device)


def _batches(setting: Imitation, pool: Sequence[Tokens], k: int) -> Iterator[list[Tokens]]:
    generator, size = np.random.default_rng([setting.seed, k, 1]), min(setting.batch_size, len(pool))
    waiting: list[int] = []
    for _ in range(setting.steps):
        if len(waiting) < size:
            waiting += generator.permutation(len(pool)).tolist()
        yield [pool[index] for index in waiting[:size]]
        waiting = waiting[size:]


def _check(step: int, loss: float, student: Student) -> None:
    if math.isfinite(loss) and all(one.grad is None or bool(torch.isfinite(one.grad).all()) for one in student.free):
        return
    raise NumericalError(
        "distilling gave out",
        where=f"step {step + 1}",
        found=f"loss {loss}" if not math.isfinite(loss) else "a gradient that is not finite",
        expected="finite numbers",
        do="lower lr, or leave out the adapter that overflows",
    )
