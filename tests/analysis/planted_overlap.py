"""Stacks whose overlap is known in closed form, and dense definitions to compare with."""

import numpy as np
import torch

from tclora.algebra import ModuleStack
from tclora.analysis import AnalysisSettings, analyse_stacks

# Sums of a few hundred float64 products of numbers of order one.
EXACT = 1e-11


def adapter_names(n: int) -> list[str]:
    return [f"a{i}" for i in range(n)]


def figures_of(stack: ModuleStack, **settings):
    """The figures of the first module; no CP model unless asked for."""
    chosen = AnalysisSettings(**({"cp_rank": None} | settings))
    return analyse_stacks([stack], adapter_names(stack.n), chosen).modules[0]


def planted_overlap(
    out_cosine: float, in_cosine: float, *, n: int = 4, values=(3.0, 2.0, 1.0), d_out: int = 40, d_in: int = 44, seed=0
) -> ModuleStack:
    """Adapters of equal singular values whose k-th directions have the given cosines; all others are orthogonal.

    Direction k of adapter i is `sqrt(c) common_k + sqrt(1 - c) own_ik` on either side.
    """
    r, generator = len(values), torch.Generator().manual_seed(seed)
    sides = []
    for d, cosine in ((d_out, out_cosine), (d_in, in_cosine)):
        basis = torch.linalg.qr(torch.randn(d, (n + 1) * r, generator=generator, dtype=torch.float64))[0]
        common, own = basis[:, :r], basis[:, r:].unflatten(1, (n, r))
        directions = cosine**0.5 * common[:, None] + (1 - cosine) ** 0.5 * own
        sides.append(directions.flatten(1)[None])
    scale = torch.tensor(values, dtype=torch.float64).repeat(n)
    return ModuleStack(("layers.0.q_proj",), sides[0] * scale, sides[1], (r,) * n)


def rough_stack(ranks=(3, 1, 4), *, d_out: int = 20, d_in: int = 17, m: int = 1, seed: int = 0) -> ModuleStack:
    """Random adapters that share something."""
    generator = torch.Generator().manual_seed(seed)

    def side(d: int) -> torch.Tensor:
        columns = torch.randn(m, d, sum(ranks), generator=generator, dtype=torch.float64)
        return columns + 0.7 * torch.randn(m, d, 1, generator=generator, dtype=torch.float64)

    return ModuleStack(tuple(f"layers.{j}.q_proj" for j in range(m)), side(d_out), side(d_in), tuple(ranks))


def dense_deltas(stack: ModuleStack, j: int = 0) -> list[np.ndarray]:
    """The delta of every adapter as one float64 matrix."""
    return [(stack.out_stack[j, :, b].double() @ stack.in_stack[j, :, b].double().T).numpy() for b in stack.blocks()]
