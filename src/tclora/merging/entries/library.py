"""Bounds on the magnitudes of whole adapters: what TIES trims over all modules of an adapter together.

In: the stacks of all modules, read anew at every pass, and one density per adapter. Out: the least magnitude kept, one
per adapter. The authors of TIES trim so; PEFT and mergekit trim each module by itself.

Source: Yadav et al. 2023, arXiv 2306.01708, section 4 and its released code.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.merging.entries.keep import kept_count
from tclora.merging.entries.order import order_magnitudes
from tclora.merging.entries.spaces import SpaceName, enter_space

__all__ = ["whole_bounds"]

Stacks = Callable[[], Iterator[ModuleStack]]


def whole_bounds(stacks: Stacks, density: tuple[float, ...], space: SpaceName) -> tuple[float, ...]:
    """The least magnitude that stays in each adapter where `density` of all its entries in `space` stay.

    Entries of modules that an adapter lacks do not count as its entries.
    """
    library = _Library(stacks, space, len(density))
    held, total = [0] * len(density), 0
    for source in library.sources():
        total += source.n_entries
        held = [count + source.n_entries * (rank > 0) for count, rank in zip(held, source.ranks, strict=True)]
    # The zeros of lacking modules lie at the lower end, so places are counted from the upper one.
    places = [[total - kept_count(share, max(1, count))] for share, count in zip(density, held, strict=True)]
    return tuple(order_magnitudes(library, torch.tensor(places))[:, 0].tolist())


@dataclass(frozen=True)
class _Library:
    """The entries of all modules, one after another."""

    stacks: Stacks
    space: SpaceName
    n: int

    def sources(self):
        for stack in self.stacks():
            space = enter_space(stack, self.space)
            yield from (space.source(j) for j in range(stack.m))

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        for source in self.sources():
            yield from source.tiles()
