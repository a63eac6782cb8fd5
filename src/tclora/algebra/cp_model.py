"""The CP model of a core as a value, its canonical form, and what can be measured on it.

A CP model writes `core[:, :, i]` as a sum over `cp_rank` terms of `weights[r] * adapter_factor[i, r]` times the outer
product of `out_factor[:, r]` and `in_factor[:, r]`. `canonical` fixes what the sum leaves open (scales, signs, order),
so that equal models are equal numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra.lowrank import column_signs
from tclora.shapes import Bool, Float, Int

__all__ = ["CpFactors", "CpFit", "canonical", "lowest_cosine", "relative_residual", "triple_cosine"]


@dataclass(frozen=True)
class CpFactors:
    """`cp_rank` rank-one terms for each of `m` problems: unit columns, non-negative weights in descending order.

    The entry of largest magnitude of each `out_factor` and `in_factor` column is positive. A term that is not needed
    has weight 0 and zero columns.
    """

    out_factor: Float[Tensor, "m p R"]
    in_factor: Float[Tensor, "m q R"]
    adapter_factor: Float[Tensor, "m n R"]
    weights: Float[Tensor, "m R"]

    def coordinates(self) -> Float[Tensor, "m n R"]:
        """How much of each term each adapter holds, in units of the core."""
        return self.adapter_factor * self.weights[:, None]

    def reconstruct(self) -> Float[Tensor, "m p q n"]:
        """The sum of all terms."""
        return _reconstruct(self.out_factor, self.in_factor, self.coordinates())


@dataclass(frozen=True)
class CpFit:
    """A CP model of each of `m` problems, with how well it fits and how it was found.

    `relative_error` is the Frobenius norm of the residual over that of the core. `n_iter` counts ALS sweeps of the
    winning start. `exact` says that the optimum was taken from singular value decompositions, without iterating.
    `start_spread` is the difference in relative error between the worst and the best of the starts that were swept to
    the end. `triple_cosine` is the lowest product of cosines over pairs of terms (1 with fewer than two terms),
    `weight_energy` the sum of squared weights over the squared norm of the core: a pair of terms that nearly cancel,
    with a cosine near -1 and an energy far above 1, makes the fit `degenerate` and its single terms meaningless.
    """

    factors: CpFactors
    relative_error: Float[Tensor, " m"]
    n_iter: Int[Tensor, " m"]
    converged: Bool[Tensor, " m"]
    exact: Bool[Tensor, " m"]
    start: tuple[str, ...]
    start_spread: Float[Tensor, " m"]
    n_terms: Int[Tensor, " m"]
    triple_cosine: Float[Tensor, " m"]
    weight_energy: Float[Tensor, " m"]
    degenerate: Bool[Tensor, " m"]


def canonical(
    out_factor: Float[Tensor, "m p R"], in_factor: Float[Tensor, "m q R"], adapter_factor: Float[Tensor, "m n R"]
) -> CpFactors:
    """The same sum of terms with scales, signs and order fixed; ties of weight keep the order given."""
    columns, norms = zip(*(_unit_columns(f) for f in (out_factor, in_factor, adapter_factor)), strict=True)
    out_signs, in_signs = column_signs(columns[0]), column_signs(columns[1])
    weights = (norms[0] * norms[1] * norms[2]).squeeze(1)
    order = torch.argsort(weights, dim=1, descending=True, stable=True)
    used = torch.gather(weights, 1, order) > 0
    signed = (columns[0] * out_signs, columns[1] * in_signs, columns[2] * out_signs * in_signs)
    turned = [torch.gather(f, 2, order[:, None].expand_as(f)) * used[:, None] for f in signed]
    return CpFactors(turned[0], turned[1], turned[2], torch.gather(weights, 1, order))


def relative_residual(core: Float[Tensor, "m p q n"], factors: CpFactors) -> Float[Tensor, " m"]:
    """Frobenius norm of `core - factors.reconstruct()` over that of `core`; 0 where the core is zero."""
    size = torch.linalg.vector_norm(core, dim=(1, 2, 3))
    unit = torch.where(size > 0, size, 1)
    return torch.linalg.vector_norm(core - factors.reconstruct(), dim=(1, 2, 3)) / unit


def triple_cosine(
    out_factor: Float[Tensor, "*m p R"], in_factor: Float[Tensor, "*m q R"], adapter_factor: Float[Tensor, "*m n R"]
) -> Float[Tensor, "*m"]:
    """The lowest product over the three modes of the cosines of two terms; 1 where there are fewer than two terms."""
    unit = [_unit_columns(factor)[0] for factor in (out_factor, in_factor, adapter_factor)]
    return lowest_cosine([columns.mT @ columns for columns in unit])


def lowest_cosine(grams: Sequence[Float[Tensor, "*m R R"]]) -> Float[Tensor, "*m"]:
    """The triple cosine from the Gram matrices of the three factors."""
    cosines, used = torch.ones_like(grams[0]), torch.ones_like(grams[0][..., 0], dtype=torch.bool)
    for gram in grams:
        norms = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        # Each by its own norms: the product of all three may vanish where each of them is a number.
        unit = torch.where(norms > 0, norms, 1)
        cosines = cosines * (gram / unit[..., :, None] / unit[..., None, :])
        used = used & (norms > 0)
    pair = used[..., :, None] & used[..., None, :] & ~torch.eye(used.shape[-1], dtype=torch.bool, device=used.device)
    return torch.where(pair, cosines, 1).amin(dim=(-2, -1))


def _unit_columns(factor: Tensor) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(factor, dim=-2, keepdim=True)
    return factor / torch.where(norms > 0, norms, 1), norms


def _reconstruct(out_factor: Tensor, in_factor: Tensor, coordinates: Tensor) -> Tensor:
    m, q, n = in_factor.shape[0], in_factor.shape[1], coordinates.shape[1]
    side = (in_factor[:, :, None] * coordinates[:, None]).flatten(1, 2)
    return (out_factor @ side.mT).reshape(m, out_factor.shape[1], q, n)
