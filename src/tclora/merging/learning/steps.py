"""What every descent here does alike: rows drawn until a pool is used up, and no step past a loss that gave out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tclora.errors import NumericalError

__all__ = ["check_step", "drawn_batches"]

Row = TypeVar("Row")


def drawn_batches(pool: Sequence[Row], size: int, steps: int, generator: np.random.Generator) -> Iterator[list[Row]]:
    """One batch for each step, of `size` rows or the whole pool, drawn without replacement until it is used up."""
    size = min(size, len(pool))
    waiting: list[int] = []
    for _ in range(steps):
        if len(waiting) < size:
            waiting += generator.permutation(len(pool)).tolist()
        yield [pool[index] for index in waiting[:size]]
        waiting = waiting[size:]


def check_step(what: str, step: int, loss: float, gradients: Iterable[Tensor | None]) -> None:
    """Refuse a step whose loss or gradient is NaN or infinite; `step` counts from 0.

    Raises:
        NumericalError: says that `what` gave out, and where.
    """
    if math.isfinite(loss) and all(one is None or bool(torch.isfinite(one).all()) for one in gradients):
        return
    raise NumericalError(
        f"{what} gave out",
        where=f"step {step + 1}",
        found=f"loss {loss}" if not math.isfinite(loss) else "a gradient that is not finite",
        expected="finite numbers",
        do="lower lr, or leave out the adapter that overflows",
    )
