"""LoRA-Soups, learned concatenation: one logit per module and adapter, softmax over the adapters, labelled examples.

In: adapters, a base, a small labelled mix. Out: weights of every module that sum to 1. Only the logits train, all equal
at the start, so learning begins at the plain mean. An adapter that lacks a module is a zero delta there with a
weight of its own: what it takes is taken from the others. With one pool of examples the loss is the mean over all
response tokens (published); with a pool per adapter it is the mean over the pools, so that tasks with long responses
do not decide alone.

The published run takes one epoch over 10,000 examples, lr 1e-4, batch 10, in which Adam can move a logit by some 0.1;
for a small mix the defaults here are a larger lr and a number of steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from tclora.adapters import Adapter
from tclora.errors import ConfigError
from tclora.merging.learning.descent import Descent, descend
from tclora.merging.learning.learned import Learned, learned_from
from tclora.merging.learning.problem import LearningProblem, labelled_pools, module_names
from tclora.models import token_losses

__all__ = ["LearnedCatParams", "learn_cat"]


@dataclass(frozen=True)
class LearnedCatParams:
    """Adam's `lr`, how many `steps` it takes, and `batch_size` examples of each pool in a step."""

    lr: float = 0.05
    steps: int = 100
    batch_size: int = 16

    def __post_init__(self):
        check_descent("learned_cat", self.lr, self.steps, self.batch_size)

    def holding(self, rank: int) -> "LearnedCatParams":
        """Concatenation holds any rank."""
        return self


def learn_cat(
    adapters: Sequence[Adapter],
    params: LearnedCatParams,
    problem: LearningProblem,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Train the logits; adapters are in the order of their digests.

    Raises:
        DataError: an example has no response.
        AdapterMismatchError: an adapter does not fit the base.
        NumericalError: a loss or a gradient is not finite.

    Source: Prabhakar et al. 2024, arXiv 2410.13025 (LoRA-Soups, CAT).
    """
    names = module_names(adapters)
    row = {name: index for index, name in enumerate(names)}
    logits = torch.zeros(len(names), len(adapters), dtype=torch.float64, device=problem.base.device)
    before, after = descend(
        Descent(
            base=problem.base,
            adapters=adapters,
            pools=labelled_pools(problem, adapters),
            weights_of=lambda table, name: torch.softmax(table[row[name]], dim=0),
            losses=token_losses,
            lr=params.lr,
            steps=params.steps,
            batch_size=params.batch_size,
            seed=problem.seed,
        ),
        logits,
        on_progress,
    )
    shares = torch.softmax(logits, dim=1).tolist()
    return learned_from(
        "learned_cat",
        asdict(params),
        problem,
        adapters,
        loss_before=before,
        loss_after=after,
        weights={name: tuple(shares[row[name]]) for name in names},
    )


def check_descent(method: str, lr: float, steps: int, batch_size: int) -> None:
    """Refuse settings of a descent that cannot be."""
    if not 0 < lr < float("inf"):
        raise ConfigError(f"'lr' of {method} is out of range", found=lr, expected="above 0, finite")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"'{name}' of {method} is out of range", found=value, expected=">= 1")
