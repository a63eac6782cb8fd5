"""LoRAHub: one weight per adapter, searched without gradients on a few labelled examples.

In: adapters, a base, labelled examples. Out: weights that lower `loss + penalty * mean|w|` within a box; the loss is in
nats per response token, with a pool of examples per adapter averaged over the pools. The published code divides the
loss by the number of examples as well, starts at 0, and searches with Nevergrad's NGOpt in 40 evaluations; here the
search is `trust_region.minimize`, which draws nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch

from tclora.adapters import Adapter
from tclora.errors import ConfigError, NumericalError
from tclora.merging.learning.learned import Learned, learned_from
from tclora.merging.learning.problem import LearningProblem, labelled_pools, module_names
from tclora.merging.learning.trust_region import minimize
from tclora.models import Base, Tokens, attached_together, response_losses

__all__ = ["LorahubParams", "learn_lorahub"]

_LOST = 1e100
"""The value of a point at which the model overflows: worse than any loss, and its square is still a number."""


@dataclass(frozen=True)
class LorahubParams:
    """`combine`: weigh deltas, or (published) A and B apart, which needs equal ranks and adds cross terms.

    `start`: the search begins at the mean of the adapters, or (published) at zero, the base itself. `penalty` is times
    the mean absolute weight, `bound` the box of each weight, `max_evaluations` the passes over the examples.
    """

    combine: Literal["deltas", "factors"] = "deltas"
    start: Literal["mean", "zero"] = "mean"
    penalty: float = 0.05
    bound: float = 1.5
    max_evaluations: int = 40
    batch_size: int = 16

    def __post_init__(self):
        for name, low in (("penalty", 0), ("bound", 0), ("max_evaluations", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if not (low <= value < float("inf")) or (name == "bound" and value == 0):
                raise ConfigError(f"'{name}' of lorahub is out of range", found=value, expected=f">= {low}, finite")

    def holding(self, rank: int) -> "LorahubParams":
        """Either way of combining holds one adapter."""
        return self


def learn_lorahub(
    adapters: Sequence[Adapter],
    params: LorahubParams,
    problem: LearningProblem,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Search one weight per adapter; adapters are in the order of their digests.

    Raises:
        DataError: an example has no response.
        AdapterMismatchError: an adapter does not fit the base, or ranks differ where factors are combined.
        NumericalError: the loss is not finite anywhere.

    Source: Huang et al. 2023, arXiv 2307.13269; repository sail-sg/lorahub.
    """
    pools, losses, n = labelled_pools(problem, adapters), [], len(adapters)
    weights = torch.zeros(n, dtype=torch.float64, device=problem.base.device)

    def objective(point: np.ndarray) -> float:
        weights.copy_(torch.from_numpy(point))
        losses.append(_mean_loss(problem.base, pools, params.batch_size))
        if on_progress is not None:
            on_progress(len(losses), params.max_evaluations)
        # A point where the model overflows is no candidate, but no reason to stop either.
        value = losses[-1] + params.penalty * float(np.abs(point).mean())
        return value if math.isfinite(value) else _LOST

    start = np.full(n, 1 / n if params.start == "mean" else 0.0)
    with attached_together(problem.base, adapters, lambda _: weights, combine=params.combine):
        found = minimize(objective, start, bound=params.bound, budget=params.max_evaluations)
    if not math.isfinite(losses[found.at]):
        raise NumericalError(
            "no weights were found at which the loss is finite",
            found=f"{len(losses)} points, the loss of each {losses[found.at]}",
            do="leave out the adapter that overflows, or use start=zero",
        )
    return learned_from(
        "lorahub",
        asdict(params),
        problem,
        adapters,
        # The start may overflow where the best point does not.
        loss_before=losses[0] if math.isfinite(losses[0]) else None,
        loss_after=losses[found.at],
        weights={name: tuple(found.point.tolist()) for name in module_names(adapters)},
    )


def _mean_loss(base: Base, pools: Sequence[Sequence[Tokens]], batch_size: int) -> float:
    """Nats per response token, averaged over the pools."""
    found = [response_losses(base, rows, batch_size=batch_size) for rows in pools]
    return float(np.mean([sums.sum() / counts.sum() for sums, counts in found]))
