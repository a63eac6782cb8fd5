"""Stacks for the solver study: modules of real libraries, and made ones of four kinds.

Out: batches of modules with equal ranks, compressed. A batch may mix shapes: shorter blocks get rows of zeros, which no
solver sees.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra import CompressedStack, ModuleStack, compress_stack
from tclora.algebra.joint_basis import Side

__all__ = ["KINDS", "Batch", "library_batch", "made_batch"]

# How much of each adapter's directions all of them share, on the out and on the in side.
KINDS = {"private": (0.0, 0.0), "shared": (0.8, 0.8), "mixed": (0.5, 0.5), "aligned": (0.0, 0.95)}


@dataclass(frozen=True)
class Batch:
    """Modules that are solved together; `labels` says of each what it is."""

    name: str
    labels: tuple[str, ...]
    compressed: CompressedStack


def made_batch(*, r: int, n: int = 10, d: int = 256, per_kind: int = 2) -> Batch:
    """Some modules of every kind, with decaying directions; the recipe of the tests of the algebra."""
    stacks = [_made(kind, shares, r=r, n=n, d=d, m=per_kind) for kind, shares in KINDS.items()]
    labels = tuple(f"{kind} r {r}" for kind in KINDS for _ in range(per_kind))
    return Batch(f"made r {r}", labels, _joined([compress_stack(stack) for stack in stacks]))


def _made(kind: str, shares: tuple[float, float], *, r: int, n: int, d: int, m: int) -> ModuleStack:
    generator = torch.Generator().manual_seed(100 * r + list(KINDS).index(kind))

    def side(share: float) -> Tensor:
        own, common = (torch.randn(m, d, k, r, generator=generator, dtype=torch.float64) / d**0.5 for k in (n, 1))
        return share * common + (1 - share) * own

    out_stack = (side(shares[0]) * torch.exp(-0.4 * torch.arange(r, dtype=torch.float64))).flatten(2)
    names = tuple(f"{kind}.{j}" for j in range(m))
    return ModuleStack(names, out_stack, side(shares[1]).flatten(2), (r,) * n)


def library_batch(folder: Path, *, n_modules: int = 8, held_out: bool = False) -> Batch:
    """Modules of a library, spread evenly over its names; its folders `cluster-*` or `adapter-*` are the adapters.

    With `held_out`, as many of the modules that are not chosen without it.
    """
    from tclora.adapters import read_adapter
    from tclora.merging.plan import plan_merge, stack_modules

    adapters = [read_adapter(path) for pattern in ("cluster-*", "adapter-*") for path in sorted(folder.glob(pattern))]
    plan = plan_merge(adapters)
    names = [name for group in plan.groups for name in group.names]
    n_chosen = min(n_modules, len(names))
    chosen = {sorted(names)[i * len(names) // n_chosen] for i in range(n_chosen)}
    if held_out:
        rest = [name for name in names if name not in chosen]
        chosen = set(rest[:: max(1, len(rest) // n_modules)][:n_modules])
    parts: list[CompressedStack] = []
    for group in plan.groups:
        stack = stack_modules(plan.adapters, group)
        kept = [j for j, name in enumerate(group.names) if name in chosen]
        if kept:
            some = (stack.out_stack[kept].double(), stack.in_stack[kept].double())
            parts.append(compress_stack(ModuleStack(tuple(group.names[j] for j in kept), *some, stack.ranks)))
    joined = _joined(parts)
    name = folder.parent.name if folder.name == "library" else folder.name
    return Batch(name, joined.names, joined)


def _joined(parts: list[CompressedStack]) -> CompressedStack:
    heights = [max(side.shape[1] for side in sides) for sides in _sides(parts)]
    out_blocks, in_blocks = (
        torch.cat([pad(side, (0, 0, 0, height - side.shape[1])) for side in sides])
        for sides, height in zip(_sides(parts), heights, strict=True)
    )
    return CompressedStack(
        names=tuple(name for part in parts for name in part.names),
        ranks=parts[0].ranks,
        out_side=Side(tuple(basis for part in parts for basis in part.out_side.bases)),
        in_side=Side(tuple(basis for part in parts for basis in part.in_side.bases)),
        out_blocks=out_blocks,
        in_blocks=in_blocks,
    )


def _sides(parts: list[CompressedStack]) -> tuple[list[Tensor], list[Tensor]]:
    return [part.out_blocks for part in parts], [part.in_blocks for part in parts]
