"""Moving a student's free numbers until it predicts what each teacher predicts on that teacher's own rows.

In: a base, teachers, one pool of rows per teacher, a `Student`. Out: the mean divergence KL(teacher || student) in nats
per scored token on the rows kept back, before and after; the student is changed in place. Two means are offered.
`pools`: a step takes a batch from each pool, and every pool counts alike. `prompts`: a step takes as many rows from all
pools together, and every token counts alike, so what comes up more often, or is answered at more length, counts more.
Refused: a loss or gradient that is not finite.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from tclora.adapters import Adapter
from tclora.merging.learning.lessons import Lesson, divergence_sums, lessons_of
from tclora.merging.learning.steps import check_step, drawn_batches
from tclora.merging.learning.student import Student
from tclora.models import Base, Tokens

__all__ = ["Count", "Imitation", "imitate"]

Count = Literal["pools", "prompts"]

_KEPT_BACK = 8
"""One row in so many of a pool is kept back, where the pool has as many."""
_LOOKS = 5
"""How often the rows kept back are asked on the way."""
_STRETCHES = (1.5, 2.25, 3.4, 5.0)
"""Scales of the start that are tried, beside 1: a mean of many adapters is shorter than what serves them best."""
_START_ROWS = 4


@dataclass(frozen=True)
class Imitation:
    """Teachers with their rows, and Adam's settings; a step takes `batch_size` rows for each pool there is."""

    base: Base
    teachers: Sequence[Adapter]
    pools: Sequence[Sequence[Tokens]]
    lr: float
    steps: int
    batch_size: int
    seed: int
    count: Count = "pools"


def imitate(setting: Imitation, student: Student, told: Callable[[int], None]) -> tuple[float, float]:
    """Stretch the start, take the steps, keep the best state on the rows kept back.

    Returns:
        the mean divergence on the rows kept back (all rows, where pools are too small), before and after.

    Raises:
        AdapterMismatchError: a teacher does not fit the base.
        NumericalError: a loss or a gradient is NaN or infinite.

    Source: Kingma and Ba 2014, arXiv 1412.6980 (Adam).
    """
    moving, kept_back = _split(setting, lessons_of(setting.base, setting.teachers, setting.pools))
    before = _loss(setting, student, kept_back)
    _stretch(setting, student, moving)
    optimizer = torch.optim.Adam(student.groups(setting.lr))
    rates = [group["lr"] for group in optimizer.param_groups]
    best, state = _loss(setting, student, kept_back), student.copy()
    for step, lessons in enumerate(_batches(setting, moving)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / setting.steps)
        loss = _backward(setting, student, lessons)
        check_step("distilling", step, loss, (one.grad for one in student.free))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told(step + 1)
        if step + 1 == setting.steps or (step + 1) % max(1, setting.steps // _LOOKS) == 0:
            found = _loss(setting, student, kept_back)
            best, state = (found, student.copy()) if found < best else (best, state)
    student.restore(state)
    return before, best


def _split(setting: Imitation, pools: list[list[Lesson]]) -> tuple[list[list[Lesson]], list[Lesson]]:
    """The lessons that move the student, by pool, and those kept back; where pools are small both are all of them.

    Pools that count alike must all be large enough; where prompts count, a small pool may keep back none.
    """
    sizes = [len(pool) for pool in pools]
    if (max if setting.count == "prompts" else min)(sizes) < _KEPT_BACK:
        return pools, [one for pool in pools for one in pool]
    moving, kept_back = [], []
    for k, pool in enumerate(pools):
        order = np.random.default_rng([setting.seed, k, 0]).permutation(len(pool))
        n_back = len(pool) // _KEPT_BACK
        kept_back += [pool[i] for i in order[:n_back]]
        moving.append([pool[i] for i in order[n_back:]])
    return moving, kept_back


def _stretch(setting: Imitation, student: Student, pools: Sequence[Sequence[Lesson]]) -> None:
    """Walk up the scales while the loss on a few rows of each pool falls."""
    few = _some(setting, pools)
    lowest, held = _loss(setting, student, few), 1.0
    for scale in _STRETCHES:
        kept = student.copy()
        student.stretch(scale / held)
        loss = _loss(setting, student, few)
        if not loss < lowest:
            student.restore(kept)
            return
        lowest, held = loss, scale


def _some(setting: Imitation, pools: Sequence[Sequence[Lesson]]) -> list[Lesson]:
    """A few lessons of each pool, or as many of the mix."""
    if setting.count == "pools":
        return [one for pool in pools for one in pool[:_START_ROWS]]
    mix = [one for pool in pools for one in pool]
    order = np.random.default_rng([setting.seed, 2]).permutation(len(mix))
    return [mix[i] for i in order[: _START_ROWS * len(pools)]]


@torch.no_grad()
def _loss(setting: Imitation, student: Student, lessons: Sequence[Lesson]) -> float:
    shares, passes = _shares(setting, lessons), divergence_sums(setting.base, student.adapter, lessons)
    return sum(float(value) * shares[one.pool] for some, sums in passes for one, value in zip(some, sums, strict=True))


def _backward(setting: Imitation, student: Student, lessons: Sequence[Lesson]) -> float:
    shares, whole = _shares(setting, lessons), 0.0
    for some, sums in divergence_sums(setting.base, student.adapter, lessons):
        loss = (sums * sums.new_tensor([shares[one.pool] for one in some])).sum()
        loss.backward()
        whole += float(loss.detach())
    return whole


def _shares(setting: Imitation, lessons: Sequence[Lesson]) -> dict[int, float]:
    """What a token of each pool counts in the mean over these lessons."""
    n_scored: dict[int, int] = {}
    for one in lessons:
        n_scored[one.pool] = n_scored.get(one.pool, 0) + one.tokens.n_scored
    if setting.count == "prompts":
        return dict.fromkeys(n_scored, 1 / max(1, sum(n_scored.values())))
    return {pool: 1 / (max(1, n) * len(n_scored)) for pool, n in n_scored.items()}


def _batches(setting: Imitation, pools: Sequence[Sequence[Lesson]]) -> Iterator[list[Lesson]]:
    if setting.count == "prompts":
        mix = [one for pool in pools for one in pool]
        generator = np.random.default_rng([setting.seed, len(pools), 1])
        yield from drawn_batches(mix, setting.batch_size * len(pools), setting.steps, generator)
        return
    draws = [
        drawn_batches(pool, setting.batch_size, setting.steps, np.random.default_rng([setting.seed, k, 1]))
        for k, pool in enumerate(pools)
    ]
    for drawn in zip(*draws, strict=True):
        yield [one for lessons in drawn for one in lessons]
