"""AdaMerging: coefficients that make the merged model sure of what comes next, on unlabelled prompts.

In: adapters, a base, prompts in one pool or in one per adapter. Out: coefficients in [0, 1], one per module and
adapter, or one per adapter, that lower the mean entropy of the next-token distribution over all positions of the
prompts. The published entropy is that of image classes, a batch of 16 from every task in each step; a pool stands for a
task here. The released code clamps in the forward pass, where a coefficient beyond the edge gets no gradient; here a
step ends at the edge. The variant `++`, on vectors that TIES has pruned, is not here.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from tclora.adapters import Adapter
from tclora.errors import ConfigError
from tclora.merging.learning.descent import Descent, descend
from tclora.merging.learning.learned import Learned, learned_from
from tclora.merging.learning.learned_cat import check_descent
from tclora.merging.learning.problem import LearningProblem, module_names, prompt_pools
from tclora.models import token_entropies

__all__ = ["AdamergingParams", "learn_adamerging"]


@dataclass(frozen=True)
class AdamergingParams:
    """`per`: a coefficient for each module and adapter (published as layer-wise), or for each adapter (task-wise).

    `start` is that of every coefficient; `lr`, `steps` and `batch_size` (per pool) are Adam's.
    """

    per: Literal["module", "adapter"] = "module"
    start: float = 0.3
    lr: float = 1e-3
    steps: int = 500
    batch_size: int = 16

    def __post_init__(self):
        check_descent("adamerging", self.lr, self.steps, self.batch_size)
        if not 0 <= self.start <= 1:
            raise ConfigError("'start' of adamerging is out of range", found=self.start, expected="0 to 1")

    def holding(self, rank: int) -> "AdamergingParams":
        """A weighted sum holds any rank."""
        return self


def learn_adamerging(
    adapters: Sequence[Adapter],
    params: AdamergingParams,
    problem: LearningProblem,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Lower the entropy; adapters are in the order of their digests.

    Raises:
        AdapterMismatchError: an adapter does not fit the base.
        NumericalError: an entropy or a gradient is not finite.

    Source: Yang et al. 2023, arXiv 2310.02575; repository EnnengYang/AdaMerging.
    """
    names = module_names(adapters)
    row = {name: index if params.per == "module" else 0 for index, name in enumerate(names)}
    size = (len(set(row.values())), len(adapters))
    table = torch.full(size, params.start, dtype=torch.float64, device=problem.base.device)
    before, after = descend(
        Descent(
            base=problem.base,
            adapters=adapters,
            pools=prompt_pools(problem, adapters),
            weights_of=lambda table, name: table[row[name]],
            losses=token_entropies,
            lr=params.lr,
            steps=params.steps,
            batch_size=params.batch_size,
            seed=problem.seed,
            confine=lambda table: table.clamp_(0, 1),
        ),
        table,
        on_progress,
    )
    coefficients = table.tolist()
    return learned_from(
        "adamerging",
        asdict(params),
        problem,
        adapters,
        loss_before=before,
        loss_after=after,
        weights={name: tuple(coefficients[row[name]]) for name in names},
    )
