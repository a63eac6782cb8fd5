"""One sweep of alternating least squares for many starts of many problems at once.

In: a `Views` of `m` cores and the factors of `s` starts of each, `(m, s, size, R)`. Out: factors of lower error. Starts
of one problem share its core, so the two large products of a sweep are matrix products with `s * R` columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.shapes import Bool, Float

__all__ = ["State", "Views", "als_sweep", "residual", "views_of"]


@dataclass(frozen=True)
class Views:
    """A batch of cores of unit norm, laid out for the two contractions of a sweep."""

    over_out: Float[Tensor, "m qn p"]
    over_in: Float[Tensor, "m pn q"]
    shape: tuple[int, int, int]

    def take(self, index: Tensor) -> "Views":
        """The same views of some of the problems."""
        return Views(self.over_out[index], self.over_in[index], self.shape)


@dataclass(frozen=True)
class State:
    """Factors of `s` starts of `m` problems; the columns of a term have equal norms."""

    out_factor: Float[Tensor, "m s p R"]
    in_factor: Float[Tensor, "m s q R"]
    adapter_factor: Float[Tensor, "m s n R"]

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Out, in and adapter factor."""
        return self.out_factor, self.in_factor, self.adapter_factor

    def take(self, index: Tensor) -> "State":
        """Some of the problems."""
        return State(*(f[index] for f in self.factors()))

    def choose(self, other: "State", where: Bool[Tensor, "m s"]) -> "State":
        """`other` for the starts marked in `where`, this elsewhere."""
        pick = where[:, :, None, None]
        return State(*(torch.where(pick, b, a) for a, b in zip(self.factors(), other.factors(), strict=True)))

    def step(self, before: "State", size: Float[Tensor, "m s"]) -> "State":
        """Go on from here by `size` times the way from `before`."""
        stride = size[:, :, None, None]
        return State(*(a + stride * (a - b) for a, b in zip(self.factors(), before.factors(), strict=True)))


def views_of(core: Float[Tensor, "m p q n"]) -> Views:
    """Lay out a batch of cores for `als_sweep`."""
    m, p, q, n = core.shape
    over_out = core.permute(0, 2, 3, 1).reshape(m, q * n, p).contiguous()
    over_in = core.permute(0, 1, 3, 2).reshape(m, p * n, q).contiguous()
    return Views(over_out, over_in, (p, q, n))


def als_sweep(views: Views, state: State, ridge: Float[Tensor, "m s"]) -> tuple[State, Float[Tensor, "m s"]]:
    """Solve for the in, the adapter and the out factor in turn, each with the other two held.

    `ridge` times the identity is added to each system of normal equations, which bounds the norms of the terms.

    Returns:
        The balanced factors, and the squared relative error after the last solve. That number comes from the expanded
        norm, good to about 1e-15: it steers the iteration and is never reported.

    Source: Kolda and Bader 2009, section 3.4; both products with the core are shared as in a dimension tree.
    """
    p, q, n = views.shape
    out_factor, _, adapter_factor = state.factors()
    over_out = _contract(views.over_out, out_factor).unflatten(1, (q, n))
    in_factor = _solve((over_out * _aligned(adapter_factor, 1)).sum(2), _gram(out_factor, adapter_factor), ridge)
    adapter_factor = _solve((over_out * _aligned(in_factor, 2)).sum(1), _gram(out_factor, in_factor), ridge)
    over_in = _contract(views.over_in, in_factor).unflatten(1, (p, n))
    mttkrp, gram = (over_in * _aligned(adapter_factor, 1)).sum(2), _gram(in_factor, adapter_factor)
    out_factor = _solve(mttkrp, gram, ridge)
    match = (mttkrp.transpose(1, 2) * out_factor).sum(dim=(2, 3))
    error = 1 - 2 * match + (gram * (out_factor.mT @ out_factor)).sum(dim=(2, 3))
    return _balanced(out_factor, in_factor, adapter_factor), error


def residual(views: Views, state: State) -> Float[Tensor, "m s"]:
    """The relative error of each start, from the residual itself."""
    starts = [
        torch.linalg.vector_norm(views.over_out - _side(state, s), dim=(1, 2)) for s in range(state.out_factor.shape[1])
    ]
    return torch.stack(starts, dim=1)


def _side(state: State, s: int) -> Tensor:
    out_factor, in_factor, adapter_factor = (f[:, s] for f in state.factors())
    return (in_factor[:, :, None] * adapter_factor[:, None]).flatten(1, 2) @ out_factor.mT


def _contract(view: Tensor, factor: Tensor) -> Tensor:
    """`view @ factor` for all starts in one product: `(m, rows, s, R)`."""
    m, s, size, rank = factor.shape
    wide = factor.transpose(1, 2).reshape(m, size, s * rank)
    return (view @ wide).unflatten(2, (s, rank))


def _aligned(factor: Tensor, at: int) -> Tensor:
    """`(m, s, size, R)` as `(m, size, s, R)` with an axis of length 1 put in at `at`."""
    return factor.transpose(1, 2).unsqueeze(at)


def _gram(left: Tensor, right: Tensor) -> Tensor:
    return (left.mT @ left) * (right.mT @ right)


def _solve(mttkrp: Tensor, gram: Tensor, ridge: Tensor) -> Tensor:
    """`mttkrp @ inv(gram + ridge I)`, `(m, size, s, R)` to `(m, s, size, R)`."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    lower, _ = torch.linalg.cholesky_ex(gram + ridge[:, :, None, None] * eye)
    return torch.cholesky_solve(mttkrp.permute(0, 2, 3, 1), lower).mT


def _balanced(out_factor: Tensor, in_factor: Tensor, adapter_factor: Tensor) -> State:
    """Give the three columns of each term the same norm."""
    factors = (out_factor, in_factor, adapter_factor)
    norms = [torch.linalg.vector_norm(f, dim=-2, keepdim=True) for f in factors]
    common = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return State(*(f * (common / torch.where(x > 0, x, 1)) for f, x in zip(factors, norms, strict=True)))
