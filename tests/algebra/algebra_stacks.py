"""Synthetic stacks with known structure, for the tests of the algebra."""

import torch

from tclora.algebra import ModuleStack

KINDS = ("private", "shared", "mixed", "aligned")


def make_stack(kind="mixed", *, m=1, d_out=48, d_in=56, ranks=(4,) * 6, seed=0, dtype=torch.float64) -> ModuleStack:
    """Adapters with decaying directions that are their own, mostly common, half common, or common on the in side."""
    generator = torch.Generator().manual_seed(seed)
    r = max(ranks)
    decay = torch.exp(-0.4 * torch.arange(r, dtype=torch.float64))

    def normal(d, n):
        return torch.randn(m, d, n, r, generator=generator, dtype=torch.float64) / d**0.5

    own_out, own_in = normal(d_out, len(ranks)) * decay, normal(d_in, len(ranks))
    common_out, common_in = normal(d_out, 1) * decay, normal(d_in, 1)
    out_share, in_share = {"private": (0, 0), "shared": (0.8, 0.8), "mixed": (0.5, 0.5), "aligned": (0, 0.95)}[kind]
    out = out_share * common_out + (1 - out_share) * own_out
    into = in_share * common_in + (1 - in_share) * own_in
    columns = torch.cat([i * r + torch.arange(rank) for i, rank in enumerate(ranks)]).long()
    names = tuple(f"layer.{j}" for j in range(m))
    stacks = (side.flatten(2)[:, :, columns].to(dtype) for side in (out, into))
    return ModuleStack(names, *stacks, tuple(ranks))


def planted_core(*, m=1, p=12, q=14, n=6, cp_rank=4, noise=0.0, seed=0):
    """A core that is a CP model of `cp_rank` terms, plus noise of the given share of its norm."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(m, size, cp_rank, generator=generator, dtype=torch.float64) for size in (p, q, n)]
    core = torch.einsum("mpr,mqr,mnr->mpqn", *factors)
    rough = torch.randn(core.shape, generator=generator, dtype=torch.float64)
    return core + noise * rough * core.norm() / rough.norm(), factors
