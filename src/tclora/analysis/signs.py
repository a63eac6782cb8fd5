"""Sign conflict: how often, and with how much of their size, adapters pull single entries in opposite directions.

In: the stack itself, for signs belong to entries and not to any basis. Out: shares per module and per pair. Entries are
taken on a grid of sampled rows and columns, drawn from the seed and the module's name; a module with no more rows and
columns than the grid is measured whole. Nothing of size `d_out * d_in` is built. Entries are taken in the precision of
the stack: in float32 a sign may be wrong where a sum of products nearly vanishes, and shares are good to about 1e-6.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tclora.algebra import ModuleStack, at_least_single
from tclora.analysis.grams import adapter_pairs, rank_groups
from tclora.shapes import Float

__all__ = ["SignConflict", "sign_conflict"]

# Entries of all adapters that are held at a time, in a few copies.
_CHUNK_NUMBERS = 2**23


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


def sign_conflict(stack: ModuleStack, *, seed: int = 0, grid: int = 64) -> SignConflict:
    """Compare the signs of the adapters' entries on `grid` sampled rows and columns of every module."""
    samples = [_sample(stack, name, seed, grid) for name in stack.names]
    rows, columns = (torch.stack(side).to(stack.out_stack.device) for side in zip(*samples, strict=True))
    at_once = max(1, _CHUNK_NUMBERS // (stack.n * rows.shape[1] * columns.shape[1]))
    parts = [_conflict(_entries(stack, j, rows, columns)) for j in torch.arange(stack.m).split(at_once)]
    return SignConflict(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _sample(stack: ModuleStack, name: str, seed: int, grid: int) -> tuple[Tensor, Tensor]:
    """The sampled rows and columns of a module: all, where there are no more than `grid`."""
    named = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.default_rng([seed, named])
    sizes = (stack.out_stack.shape[1], stack.in_stack.shape[1])
    drawn = (np.arange(d) if d <= grid else np.sort(generator.choice(d, size=grid, replace=False)) for d in sizes)
    rows, columns = (torch.from_numpy(places) for places in drawn)
    return rows, columns


def _entries(stack: ModuleStack, modules: Tensor, rows: Tensor, columns: Tensor) -> Float[Tensor, "k n entries"]:
    """The sampled entries of every adapter, up to one factor per module that keeps them in range."""
    out_rows = _in_range(at_least_single(stack.out_stack[modules[:, None], rows[modules]]))
    in_rows = _in_range(at_least_single(stack.in_stack[modules[:, None], columns[modules]]))
    entries = out_rows.new_zeros(len(modules), stack.n, rows.shape[1], columns.shape[1])
    for owners, owned in rank_groups(stack.ranks):
        entries[:, owners] = out_rows[:, :, owned].transpose(1, 2) @ in_rows[:, :, owned].permute(0, 2, 3, 1)
    return entries.flatten(2)


def _in_range(side: Tensor) -> Tensor:
    if side.shape[2] == 0:
        return side
    largest = side.abs().amax(dim=(1, 2), keepdim=True)
    return side / torch.where(largest > 0, largest, 1)


def _conflict(entries: Float[Tensor, "k n entries"]) -> tuple[Tensor, ...]:
    size, sign = entries.abs(), entries.sign()
    mass = size.sum(dim=1)
    opposed = (entries.amax(dim=1) > 0) & (entries.amin(dim=1) < 0)
    whole = mass.sum(dim=1, dtype=torch.float64)
    share = _ratio(opposed.sum(dim=1).double(), (mass > 0).sum(dim=1).double())
    weighted = _ratio((mass * opposed).sum(dim=1, dtype=torch.float64), whole)
    lost = (mass - entries.sum(dim=1).abs()).sum(dim=1, dtype=torch.float64)
    return share, weighted, _ratio(lost.clamp(min=0), whole), *_pair_conflict(entries, size, sign)


def _pair_conflict(entries: Tensor, size: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over entries as matrix products: `|s_i s_j| - s_i s_j` is 2 where the signs are opposite and 0 elsewhere."""
    first, second = adapter_pairs(entries.shape[1])
    live = sign.abs()
    both, size_both = _products(live, live, size)
    signed, size_signed = _products(sign, sign, entries)
    # Row i, column j: the magnitudes of adapter j, on the entries that both change and on those in conflict.
    size_opposed = (size_both - size_signed) / 2
    shares = (
        _ratio((both - signed) / 2, both),
        _ratio(size_opposed + size_opposed.mT, size_both + size_both.mT).clamp(0, 1),
    )
    return shares[0][:, first, second], shares[1][:, first, second]


def _products(left: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """`left @ one.T` and `left @ other.T` in one product."""
    one_part, other_part = (left @ torch.cat([one, other], dim=1).mT).double().chunk(2, dim=2)
    return one_part, other_part


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), torch.nan)
