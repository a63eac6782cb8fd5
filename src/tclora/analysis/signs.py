"""Sign conflict: how often, and with how much of their size, adapters pull single entries in opposite directions.

In: the stack itself, for signs belong to entries and not to any basis. Out: shares per module and per pair. Entries are
taken on a grid of sampled rows and columns, drawn from the seed and the module's name; a module with no more rows and
columns than the grid is measured whole. Nothing of size `d_out * d_in` is built.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.analysis.columns import adapter_pairs
from tclora.shapes import Float

__all__ = ["SignConflict", "sign_conflict"]


@dataclass(frozen=True)
class SignConflict:
    """Shares from 0 to 1.

    `share`: of the entries that any adapter changes, those that two adapters push in opposite directions. `weighted`:
    the same, an entry counting by the sum of the adapters' magnitudes there. `cancelled`: the part of all magnitude
    that is lost when the adapters are added. Per pair: of the entries that both change, those of opposite signs; and
    that with entries counting by the sum of the two magnitudes. NaN where nothing is changed.
    """

    share: Float[Tensor, " m"]
    weighted: Float[Tensor, " m"]
    cancelled: Float[Tensor, " m"]
    pair_share: Float[Tensor, "m pairs"]
    pair_weighted: Float[Tensor, "m pairs"]


def sign_conflict(stack: ModuleStack, *, seed: int = 0, grid: int = 128) -> SignConflict:
    """Compare the signs of the adapters' entries on `grid` sampled rows and columns of every module."""
    modules = [_module_conflict(_sampled_entries(stack, j, seed, grid)) for j in range(stack.m)]
    return SignConflict(*(torch.stack(column) for column in zip(*modules, strict=True)))


def _sampled_entries(stack: ModuleStack, j: int, seed: int, grid: int) -> Float[Tensor, "n entries"]:
    """The entries of every adapter of module `j` on its grid, in float64."""
    named = int.from_bytes(hashlib.sha256(stack.names[j].encode()).digest()[:8], "little")
    generator = np.random.default_rng([seed, named])
    out_rows, in_rows = (_sampled_rows(side[j], generator, grid) for side in (stack.out_stack, stack.in_stack))
    return torch.stack([(out_rows[:, b] @ in_rows[:, b].T).flatten() for b in stack.blocks()])


def _sampled_rows(side: Tensor, generator: np.random.Generator, grid: int) -> Tensor:
    d = side.shape[0]
    if d <= grid:
        return side.double()
    rows = np.sort(generator.choice(d, size=grid, replace=False))
    return side[torch.from_numpy(rows).to(side.device)].double()


def _module_conflict(entries: Float[Tensor, "n entries"]) -> tuple[Tensor, ...]:
    size, sign = entries.abs(), entries.sign()
    mass = size.sum(dim=0)
    opposed = (sign.amax(dim=0) > 0) & (sign.amin(dim=0) < 0)
    share = _ratio(opposed.double().sum(), (mass > 0).double().sum())
    weighted = _ratio((mass * opposed).sum(), mass.sum())
    cancelled = _ratio((mass - entries.sum(dim=0).abs()).sum().clamp(min=0), mass.sum())
    return share, weighted, cancelled, *_pair_conflict(entries, size, sign)


def _pair_conflict(entries: Tensor, size: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over entries as matrix products: `|s_i s_j| - s_i s_j` is 2 where the signs are opposite and 0 elsewhere."""
    first, second = adapter_pairs(len(entries))
    live = sign.abs()
    both, opposed = live @ live.T, (live @ live.T - sign @ sign.T) / 2
    # Row i, column j: the magnitudes of adapter i, on the entries that both change and on those in conflict.
    size_both, size_opposed = size @ live.T, (size @ live.T - entries @ sign.T) / 2
    return (
        _ratio(opposed, both)[first, second],
        _ratio(size_opposed + size_opposed.T, size_both + size_both.T)[first, second].clamp(0, 1),
    )


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), torch.nan)
