"""Where an entry-wise rule is applied: to the deltas themselves, or to their coordinates in a smaller space.

In: a `ModuleStack`. Out: a `Space`: per module the low-rank matrices to which a rule is applied, and the way back.

| space | matrices of adapter `i` | bases |
|---|---|---|
| `dense` | `delta_i` | none |
| `knots` | `U.T @ delta_i`, `(P, d_in)` | `U`: left singular vectors of `[delta_1 ... delta_n]` |
| `core` | `U.T @ delta_i @ V`, `(P, P)` | `U`, `V`: left singular vectors of all `lora_b`, right ones of all `lora_a` |

All three hold every delta exactly. An entry-wise rule depends on the basis in which entries are taken, so the three
give different results; in the small spaces the merged matrix has rank at most P, and nothing is lost by writing it as
an adapter.

Sources: KnOTS, Stoica et al. 2024, arXiv 2410.19735; Core Space, Panariello et al. 2025, arXiv 2509.17786. There the
singular vectors of `core` are those of the factors as stored, which a rescaling of `lora_b` against `lora_a` changes;
the default here takes them from balanced factors, so that the result depends on the deltas alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra import CompressedStack, LowRankDelta, ModuleStack, compress_stack, lift
from tclora.errors import NumericalError
from tclora.merging.entries.deltas import DeltaSource

__all__ = ["Factors", "Space", "SpaceName", "enter_space"]

SpaceName = Literal["dense", "knots", "core"]
Factors = Literal["balanced", "stored"]


@dataclass(frozen=True)
class Space:
    """`source(j)`: the matrices of module `j`. `leave`: factors in the space, one pair per module, to full size."""

    source: Callable[[int], DeltaSource]
    leave: Callable[[Sequence[Tensor], Sequence[Tensor]], LowRankDelta]


def enter_space(stack: ModuleStack, name: SpaceName, *, factors: Factors = "balanced") -> Space:
    """The stack in the space called `name`; `factors` says from which the bases of `core` are taken.

    Raises:
        NumericalError: a factor holds NaN or infinity; names module and adapter.
    """
    if name == "dense":
        return _dense(stack)
    compressed = compress_stack(stack)
    return _knots(stack, compressed) if name == "knots" else _core(stack, compressed, factors)


def _dense(stack: ModuleStack) -> Space:
    _refuse_non_finite(stack)

    def source(j: int) -> DeltaSource:
        return DeltaSource(stack.names[j], stack.out_stack[j].double(), stack.in_stack[j].double(), stack.ranks)

    def leave(left: Sequence[Tensor], right: Sequence[Tensor]) -> LowRankDelta:
        return LowRankDelta(stack.names, _batch(left), _batch(right).mT)

    return Space(source, leave)


def _knots(stack: ModuleStack, compressed: CompressedStack) -> Space:
    # The in columns of one adapter are orthogonal, so scaling its out columns by their lengths leaves the singular
    # vectors of `[delta_1 ... delta_n]` as those of the scaled columns.
    scaled = compressed.out_blocks * compressed.singular_values().sqrt()[:, None]
    turns = [_left_vectors(part, rank) for part, rank in zip(scaled, compressed.out_rank.tolist(), strict=True)]
    in_columns = compressed.in_side.lift(compressed.in_blocks).double()

    def source(j: int) -> DeltaSource:
        out_columns = turns[j].mT @ compressed.out_blocks[j, : len(turns[j])]
        return DeltaSource(stack.names[j], out_columns, in_columns[j], stack.ranks)

    def leave(left: Sequence[Tensor], right: Sequence[Tensor]) -> LowRankDelta:
        small = _batch([turn @ part for turn, part in zip(turns, left, strict=True)], compressed.out_blocks.shape[1])
        return LowRankDelta(stack.names, compressed.out_side.lift(small).double(), _batch(right).mT)

    return Space(source, leave)


def _core(stack: ModuleStack, compressed: CompressedStack, factors: Factors) -> Space:
    out_columns, in_columns = compressed.out_blocks, compressed.in_blocks
    if factors == "stored":
        out_columns = compressed.out_basis.mT @ stack.out_stack.to(out_columns)
        in_columns = compressed.in_basis.mT @ stack.in_stack.to(in_columns)
    out_turns = [_left_vectors(x, rank) for x, rank in zip(out_columns, compressed.out_rank.tolist(), strict=True)]
    in_turns = [_left_vectors(x, rank) for x, rank in zip(in_columns, compressed.in_rank.tolist(), strict=True)]

    def source(j: int) -> DeltaSource:
        out_small = out_turns[j].mT @ compressed.out_blocks[j, : len(out_turns[j])]
        in_small = in_turns[j].mT @ compressed.in_blocks[j, : len(in_turns[j])]
        return DeltaSource(stack.names[j], out_small, in_small, stack.ranks)

    def leave(left: Sequence[Tensor], right: Sequence[Tensor]) -> LowRankDelta:
        out_small = [turn @ part for turn, part in zip(out_turns, left, strict=True)]
        in_small = [turn @ part for turn, part in zip(in_turns, right, strict=True)]
        heights = compressed.out_blocks.shape[1], compressed.in_blocks.shape[1]
        return lift(compressed, _batch(out_small, heights[0]), _batch(in_small, heights[1]))

    return Space(source, leave)


def _left_vectors(columns: Tensor, rank: int) -> Tensor:
    """The left singular vectors of coordinates of which the first `rank` rows count; one row where none does."""
    if rank == 0:
        return columns.new_ones(1, 1)
    vectors = torch.linalg.svd(columns[:rank], full_matrices=False)[0]
    # A singular vector's sign is free; entries of its row in every adapter follow it.
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def _batch(parts: Sequence[Tensor], height: int = 0) -> Tensor:
    """Matrices of several heights and widths as one batch, filled up with zeros."""
    height, width = max(height, *(len(x) for x in parts)), max(x.shape[1] for x in parts)
    return torch.stack([pad(x, (0, width - x.shape[1], 0, height - len(x))) for x in parts])


def _refuse_non_finite(stack: ModuleStack) -> None:
    finite = torch.isfinite(stack.out_stack).all(dim=1) & torch.isfinite(stack.in_stack).all(dim=1)
    if bool(finite.all()):
        return
    j, column = (int(place) for place in (~finite).nonzero()[0])
    adapter = next(i for i, block in enumerate(stack.blocks()) if block.start <= column < block.stop)
    raise NumericalError(
        "a LoRA factor holds NaN or infinity",
        where=f"module {stack.names[j]}, adapter {adapter}",
        found="a value that is not finite",
        expected="finite numbers",
        do="leave this adapter out, or train it again",
    )
