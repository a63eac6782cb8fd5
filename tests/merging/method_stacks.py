"""Random stacks for the tests of single methods, with the cases that break formulas, and calls without the merge.

Stacks are float64, so what a method gives can be held against dense linear algebra to rounding.
"""

import torch
from hypothesis import strategies as st

from tclora.algebra import ModuleStack
from tclora.merging import MERGE_METHODS, parse_params

FLAWS = ("zero", "equal", "deficient")


def make_stack(ranks=(2, 3, 1), *, d_out=13, d_in=11, m=2, seed=0, flaws=()) -> ModuleStack:
    """Normal factors. `zero`: the last adapter's delta is zero. `equal`: the last adapter is the first one again.
    `deficient`: the last column of each adapter repeats its first one."""
    generator = torch.Generator().manual_seed(seed)
    out = [torch.randn(m, d_out, r, generator=generator, dtype=torch.float64) for r in ranks]
    into = [torch.randn(m, d_in, r, generator=generator, dtype=torch.float64) for r in ranks]
    if "deficient" in flaws:
        for side in (out, into):
            for block in side:
                block[:, :, -1:] = block[:, :, :1]
    if "equal" in flaws:
        out[-1], into[-1] = out[0], into[0]
    if "zero" in flaws:
        out[-1] = torch.zeros_like(out[-1])
    names = tuple(f"layer.{j}" for j in range(m))
    return ModuleStack(names, torch.cat(out, 2), torch.cat(into, 2), tuple(block.shape[2] for block in out))


@st.composite
def recipes(draw, *, n=(1, 4), rank=(0, 4), flaws=FLAWS):
    """Arguments of `make_stack`: absent adapters, P beyond the module's size, long and wide modules, flaws."""
    ranks = draw(st.lists(st.integers(*rank), min_size=n[0], max_size=n[1]).filter(any))
    d_out, d_in = draw(st.sampled_from([(13, 11), (5, 11), (9, 4)]))
    chosen = draw(st.sets(st.sampled_from(flaws), max_size=2)) if flaws else set()
    seed = draw(st.integers(0, 10**6))
    return {"ranks": tuple(ranks), "d_out": d_out, "d_in": d_in, "flaws": tuple(sorted(chosen)), "seed": seed}


def first_ones(stack: ModuleStack, n: int) -> ModuleStack:
    """The first `n` adapters alone."""
    width = sum(stack.ranks[:n])
    return ModuleStack(stack.names, stack.out_stack[:, :, :width], stack.in_stack[:, :, :width], stack.ranks[:n])


def weights_for(n: int, *, low=0.2, high=2.0):
    """One weight per adapter."""
    return st.lists(st.floats(low, high), min_size=n, max_size=n)


def deltas(stack: ModuleStack) -> list[torch.Tensor]:
    """The dense deltas, `(m, d_out, d_in)` each."""
    return [stack.delta(i) for i in range(stack.n)]


def run(method: str, stack: ModuleStack, weights=None, **params):
    """The method's own function on the stack; weights of 1 where none are given."""
    chosen = torch.tensor(weights if weights is not None else [1.0] * stack.n, dtype=torch.float64)
    return MERGE_METHODS[method](stack, parse_params(method, params), chosen.expand(stack.m, -1))


def merged(method: str, stack: ModuleStack, weights=None, **params) -> torch.Tensor:
    """The dense result."""
    return run(method, stack, weights, **params).delta.dense()


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest relative distance over modules; absolute where a wanted matrix is zero."""
    size = wanted.flatten(1).norm(dim=1)
    return float(((found - wanted).flatten(1).norm(dim=1) / torch.where(size > 0, size, 1)).max())


def change(stack: ModuleStack, how: str) -> ModuleStack:
    """The same stack in another gauge, in another order, ten times as large, or turned on both sides."""
    generator = torch.Generator().manual_seed(99)
    out, into, ranks = stack.out_stack, stack.in_stack, stack.ranks
    if how == "gauge":
        for block in stack.blocks():
            mix = torch.eye(block.stop - block.start, dtype=torch.float64)
            mix = mix + 0.3 * torch.randn(mix.shape, generator=generator, dtype=torch.float64)
            out, into = out.clone(), into.clone()
            out[:, :, block] = stack.out_stack[:, :, block] @ mix
            into[:, :, block] = stack.in_stack[:, :, block] @ torch.linalg.inv(mix).mT
    if how == "order":
        turned = list(range(stack.n))[::-1]
        columns = torch.cat([torch.arange(b.start, b.stop) for b in (stack.blocks()[i] for i in turned)])
        out, into, ranks = out[:, :, columns], into[:, :, columns], tuple(ranks[i] for i in turned)
    if how == "scale":
        out = 10 * out
    if how == "turn":
        out, into = rotation(out.shape[1]) @ out, rotation(into.shape[1]) @ into
    return ModuleStack(stack.names, out, into, ranks)


def changed_back(found: torch.Tensor, how: str) -> torch.Tensor:
    """The result for a changed stack, as it would be for the stack itself if the method does not see the change."""
    if how == "scale":
        return found / 10
    if how == "turn":
        return rotation(found.shape[1]).mT @ found @ rotation(found.shape[2])
    return found


def rotation(d: int) -> torch.Tensor:
    """One fixed orthogonal matrix per size."""
    square = torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    return torch.linalg.qr(square)[0]
