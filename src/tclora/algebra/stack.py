"""The values this room takes and gives: a stack of low-rank updates going in, one low-rank update coming out.

A `ModuleStack` holds `m` modules of one shape with `n` adapters side by side as columns. The delta of adapter `i`
in module `j` is `out_stack[j][:, block_i] @ in_stack[j][:, block_i].T`; any scaling is already inside `out_stack`.
A stack may be in half precision, as files are; whoever computes with a part of it takes that part `at_least_single`.
Refused: axes that disagree, ranks that do not add up to the width, names that repeat, integer tensors.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tclora.errors import ShapeError
from tclora.shapes import Float

__all__ = ["LowRankDelta", "ModuleStack", "at_least_single", "blocks_of"]


@dataclass(frozen=True)
class ModuleStack:
    """`m` modules of one shape, the LoRA columns of `n` adapters side by side.

    Adapter `i` owns `ranks[i]` columns of both stacks; 0 means that it lacks the module, so its delta is zero.

    Raises:
        ShapeError: names, ranks and tensors do not agree with one another.
    """

    names: tuple[str, ...]
    out_stack: Float[Tensor, "m d_out P"]
    in_stack: Float[Tensor, "m d_in P"]
    ranks: tuple[int, ...]

    def __post_init__(self):
        _check_names(self.names, self.out_stack.shape[0])
        _check_pair(self.out_stack, self.in_stack, modules=(0, 0), columns=(2, 2), names=("out_stack", "in_stack"))
        if not self.ranks or min(self.ranks) < 0 or sum(self.ranks) != self.out_stack.shape[2]:
            raise ShapeError(
                "the ranks of the adapters do not add up to the columns of the stack",
                where=self.names[0],
                found=f"ranks {self.ranks}, sum {sum(self.ranks)}",
                expected=f"at least one rank, none negative, sum {self.out_stack.shape[2]}",
                do="give one rank per adapter, 0 where the adapter lacks the module",
            )

    @property
    def m(self) -> int:
        """How many modules."""
        return self.out_stack.shape[0]

    @property
    def n(self) -> int:
        """How many adapters."""
        return len(self.ranks)

    @property
    def total_rank(self) -> int:
        """P, the sum of the adapters' ranks."""
        return self.out_stack.shape[2]

    def blocks(self) -> list[slice]:
        """The columns of each adapter, in order."""
        return blocks_of(self.ranks)

    def delta(self, i: int) -> Float[Tensor, "m d_out d_in"]:
        """The dense delta of adapter `i` in every module; for tests and small shapes."""
        block = self.blocks()[i]
        out_columns, in_columns = (
            at_least_single(self.out_stack[:, :, block]),
            at_least_single(self.in_stack[:, :, block]),
        )
        return out_columns @ in_columns.mT


@dataclass(frozen=True)
class LowRankDelta:
    """One low-rank update per module, `lora_b @ lora_a`: an ordinary LoRA with no scaling left to apply.

    Raises:
        ShapeError: names and tensors do not agree with one another.
    """

    names: tuple[str, ...]
    lora_b: Float[Tensor, "m d_out r"]
    lora_a: Float[Tensor, "m r d_in"]

    def __post_init__(self):
        _check_names(self.names, self.lora_b.shape[0])
        _check_pair(self.lora_b, self.lora_a, modules=(0, 0), columns=(2, 1), names=("lora_b", "lora_a"))

    def dense(self) -> Float[Tensor, "m d_out d_in"]:
        """The dense updates; for tests and small shapes."""
        return self.lora_b @ self.lora_a


def blocks_of(ranks: tuple[int, ...]) -> list[slice]:
    """The columns of each adapter, side by side in order."""
    return [slice(end - rank, end) for end, rank in zip(accumulate(ranks), ranks, strict=True)]


def at_least_single(tensor: Tensor) -> Tensor:
    """The same numbers in float32 where they are in half precision, in which nothing is computed here."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _check_names(names: tuple[str, ...], m: int) -> None:
    if m == 0 or len(names) != m or len(set(names)) != m:
        raise ShapeError(
            "the module names do not label the modules",
            found=f"{len(names)} names ({len(set(names))} different) for {m} modules",
            expected="one or more modules, each with its own name",
            do="give the stack one label per module",
        )


def _check_pair(
    left: Tensor, right: Tensor, *, modules: tuple[int, int], columns: tuple[int, int], names: tuple[str, str]
) -> None:
    agree = left.ndim == right.ndim == 3 and all(left.shape[i] == right.shape[j] for i, j in (modules, columns))
    alike = left.dtype == right.dtype and left.device == right.device and left.is_floating_point()
    if not (agree and alike):
        raise ShapeError(
            f"{names[0]} and {names[1]} do not belong together",
            found=f"{_describe(left)} and {_describe(right)}",
            expected="equal modules and columns, one floating-point dtype, one device",
            do="stack both sides from the same adapters in the same order",
        )


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
