"""An entry-wise rule applied to every module of a stack, in a space, and brought back as an adapter of a given rank.

In: a stack, one weight per module and adapter, an `EntryRule`, a space and a rank. Out: a `MergedStack`; its relative
error is what the truncation to that rank loses of the merged matrix (0 where the rank holds it).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.errors import NumericalError
from tclora.merging.entries.combine import elected, vote, weighted_sum
from tclora.merging.entries.deltas import DeltaSource
from tclora.merging.entries.keep import Keeper, fit_keeper
from tclora.merging.entries.rule import EntryRule
from tclora.merging.entries.spaces import Space
from tclora.merging.entries.tiled import TiledMatrix, Truncated, best_of_rank
from tclora.merging.method import MergedStack
from tclora.shapes import Float

__all__ = ["merge_entries", "merged_matrix"]


def merge_entries(
    stack: ModuleStack, adapter_weights: Float[Tensor, "m n"], rule: EntryRule, space: Space, *, rank: int | None
) -> MergedStack:
    """Merge every module by `rule` in `space`; `rank` None leaves the sum of the adapters' ranks.

    Raises:
        NumericalError: a merged matrix is not finite.
    """
    weights = adapter_weights.to(stack.out_stack.device, torch.float64)
    merged = [_merge_module(space.source(j), weights[j], rule, rank or stack.total_rank) for j in range(stack.m)]
    delta = space.leave([part.left for part in merged], [part.right for part in merged])
    figures = torch.tensor([[part.relative_error, part.size] for part in merged], dtype=torch.float64)
    figures = figures.to(stack.out_stack.device)
    return MergedStack(delta, figures[:, 0], figures[:, 1], tuple({"zeros": part.zeros} for part in merged))


def merged_matrix(source: DeltaSource, weights: Float[Tensor, " n"], rule: EntryRule) -> TiledMatrix:
    """The merged matrix of one module, made anew tile by tile whenever it is read."""
    keeper = fit_keeper(source, rule)
    even = _majority(source, weights, rule, keeper)

    def read() -> Iterator[tuple[slice, Tensor]]:
        for rows, tile in source.tiles():
            keeper(tile, rows)
            if rule.election is None:
                yield rows, weighted_sum(tile, weights)
            else:
                yield rows, elected(tile, weights, rule.election, even=even)

    return TiledMatrix(source.shape, source.out_columns.device, read)


def _majority(source: DeltaSource, weights: Tensor, rule: EntryRule, keeper: Keeper) -> float:
    """The sign that an even vote takes."""
    if rule.election is None or rule.election.convention != "authors":
        return 1.0
    balance = 0
    for rows, tile in source.tiles():
        keeper(tile, rows)
        balance += int(vote(tile, weights, rule.election).sign().sum())
    return -1.0 if balance < 0 else 1.0


def _merge_module(source: DeltaSource, weights: Tensor, rule: EntryRule, rank: int) -> Truncated:
    matrix = merged_matrix(source, weights, rule)
    rank = max(1, min(rank, *source.shape))
    merged = best_of_rank(matrix, rank, lambda width: _start(source, width, rule.seed))
    if not math.isfinite(merged.size):
        raise NumericalError(
            "the merged update is not finite",
            where=f"module {source.name}",
            found="an infinite or undefined entry",
            expected="finite numbers",
            do="look for an adapter with extreme values by `tclora check`",
        )
    return merged


def _start(source: DeltaSource, width: int, seed: int) -> Tensor:
    """Columns near the row space of what a rule makes of the deltas: carried back by the plain sum, then random ones.

    The sum turns random columns into its own row space; how an adapter is factored does not show in them.
    """
    rows, cols = source.shape
    total_rank = source.in_columns.shape[1]
    random = np.random.default_rng([seed, rows, cols, total_rank])

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape)).to(source.out_columns.device)

    aimed = min(width, total_rank)
    carried = source.in_columns @ (source.out_columns.mT @ normal(rows, aimed))
    return torch.cat([carried, normal(cols, width - aimed)], dim=1)
