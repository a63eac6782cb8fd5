"""The merges that a distilled adapter can start from.

In: the adapters and, for a start that reads, a pool of token rows for each. Out: one adapter of a rank. `tc_lora` is
the joint CP model, its terms by their mean coordinates; it reads nothing. `regmean` is the regression mean cut to the
rank in the metric of its inputs, which are the rows, each pool's adapter at work. Weights are equal or those given.
"""

from collections.abc import Sequence
from typing import Literal

from tclora.adapters import Adapter
from tclora.merging.learning.regmean import RegmeanParams, statistics_of
from tclora.models import Base, Tokens

__all__ = ["Start", "joint_start", "regression_start"]

Start = Literal["tc_lora", "regmean"]

_MAX_TOKENS = 4096
"""Of each pool. Three times as many tokens were of no use to the regression mean (docs/results/attempts.md)."""


def joint_start(adapters: Sequence[Adapter], rank: int) -> Adapter:
    """The joint CP model of the adapters at `rank`, its terms by their mean coordinates."""
    # Merging loads every method, and those that are learned among them.
    from tclora.merging.merge import merge_adapters

    return merge_adapters(adapters, "tc_lora", params={"cp_rank": rank}, workers=1).adapter


def regression_start(
    base: Base,
    adapters: Sequence[Adapter],
    pools: Sequence[Sequence[Tokens]],
    *,
    rank: int,
    weights: Sequence[float],
    seed: int,
) -> Adapter:
    """The best adapter of `rank` by the measure of `regmean`, on these rows.

    Raises:
        AdapterMismatchError: an adapter does not fit the base.

    Source: Jin et al. 2022, arXiv 2212.09849; Izenman 1975.
    """
    from tclora.merging.merge import merge_adapters

    asked = RegmeanParams(max_tokens=_MAX_TOKENS, rank=rank)
    params = RegmeanParams(rank=rank, statistics=tuple(statistics_of(base, adapters, pools, asked, seed)))
    return merge_adapters(adapters, "regmean", params=params, adapter_weights=list(weights), workers=1).adapter
