"""Merge methods once more, as the textbooks have them: plain torch on `d_out x d_in` float64 matrices.

In: a `Library`, the adapters of one module. Out: the merged matrix, and where a method minimizes something, how well.
Nothing of the package's algebra is used; parameters are read from the method's own class, so both sides are asked the
same. Where a published formula is ill posed on deltas of low rank (singular vectors of zero singular values), the dense
form keeps the numerical rank, as the package does. `DENSE` says for each method at what size its form is bearable.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dense_entries import entry_wise, in_core_space, in_knots_space
from dense_models import SWEEPS, lego, tc_lora, tucker

__all__ = ["DENSE", "FULL", "Form", "Library", "Merged"]

# Sizes d_out = d_in of the comparison; forms with an SVD per adapter or of all deltas side by side go down.
FULL, MIDDLE, SMALL = 2048, 1024, 512
NO_DIRECTION = 1e-8


@dataclass(frozen=True)
class Library:
    """`out[i]` (d_out, r) and `into[i]` (d_in, r) of each adapter of the module `name`; `inputs[i]` (tokens, d_in)."""

    name: str
    out: list[Tensor]
    into: list[Tensor]
    weights: list[float]
    inputs: list[Tensor]

    def deltas(self) -> list[Tensor]:
        """The dense updates."""
        return [b.double() @ a.double().T for b, a in zip(self.out, self.into, strict=True)]

    @property
    def n(self) -> int:
        return len(self.out)


@dataclass(frozen=True)
class Merged:
    """The merged matrix; `objective` is the relative error of the model or of the truncation, where there is one."""

    matrix: Tensor
    objective: float | None = None


@dataclass(frozen=True)
class Form:
    """A dense form, the size up to which it is run, and what must be known to read its time."""

    run: Callable[[Library, Any], Merged]
    size: int = FULL
    note: str = ""


def weighted_sum(library: Library, params: Any) -> Merged:
    """`sum_i w_i delta_i`."""
    return Merged(_sum(library.deltas(), library.weights))


def task_arithmetic(library: Library, params: Any) -> Merged:
    """A coefficient times the weighted sum."""
    return Merged(params.coefficient * _sum(library.deltas(), library.weights))


def svd(library: Library, params: Any) -> Merged:
    """The leading triplets of the weighted sum."""
    total = _sum(library.deltas(), library.weights)
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    rank = params.rank or max(b.shape[1] for b in library.out)
    lost = float(s[rank:].norm() / s.norm())
    return Merged((u[:, :rank] * s[:rank]) @ vh[:rank], lost)


def linear_factors(library: Library, params: Any) -> Merged:
    """PEFT's `linear`: sums of either factor apart."""
    out = _sum(library.out, [math.sqrt(abs(w)) for w in library.weights])
    into = _sum(library.into, [math.copysign(math.sqrt(abs(w)), w) for w in library.weights])
    return Merged(out @ into.T)


def robust_merge(library: Library, params: Any) -> Merged:
    """As the released code: trimmed factors, rows scaled up, sums of either factor."""
    into, out, scales = 0, 0, 0
    for b, a in zip(library.out, library.into, strict=True):
        full, kept = a.double(), _trimmed(a.double(), params.density)
        ratio = full.abs().sum(0) / kept.abs().sum(0)
        bound = ratio.sort().values[min(int(len(ratio) * params.quantile), len(ratio) - 1)]
        scale = torch.maximum(ratio, bound)
        into, out, scales = into + kept, out + scale * _trimmed(b.double(), params.density), scales + scale
    return Merged((params.fuse * out / scales) @ (params.fuse * into).T)


def slerp(library: Library, params: Any) -> Merged:
    """The arc between two matrices taken as vectors."""
    first, second = library.deltas()
    cosine = float((first * second).sum() / (first.norm() * second.norm()))
    t = library.weights[1] / sum(library.weights)
    if abs(cosine) > 0.9995:
        return Merged((1 - t) * first + t * second)
    angle = math.acos(cosine)
    return Merged((math.sin((1 - t) * angle) * first + math.sin(t * angle) * second) / math.sin(angle))


def multislerp(library: Library, params: Any) -> Merged:
    """mergekit's formula, with its step in the tangent space of the mean."""
    deltas, shares = library.deltas(), [w / sum(library.weights) for w in library.weights]
    units = [delta / delta.norm() for delta in deltas]
    mean = _sum(units, shares)
    mean = mean / mean.norm()
    size = sum(w * float(delta.norm()) for w, delta in zip(shares, deltas, strict=True))
    tangent = _sum([unit - (unit * mean).sum() * mean for unit in units], shares)
    reach = float(tangent.norm())
    if reach > NO_DIRECTION:
        mean = math.cos(reach) * mean + math.sin(reach) * tangent / reach
    return Merged(size * mean)


def karcher(library: Library, params: Any) -> Merged:
    """Logarithms and exponentials on the sphere until the step is below the tolerance."""
    deltas, shares = library.deltas(), [w / sum(library.weights) for w in library.weights]
    units = [delta / delta.norm() for delta in deltas]
    mean = _sum(units, shares)
    mean = mean / mean.norm()
    for _ in range(params.max_iter):
        step = torch.zeros_like(mean)
        for share, unit in zip(shares, units, strict=True):
            cosine = float((unit * mean).sum())
            angle = math.acos(max(-1.0, min(1.0, cosine)))
            step += share * angle / math.sin(angle) * (unit - cosine * mean)
        reach = float(step.norm())
        mean = math.cos(reach) * mean + math.sin(reach) * step / reach
        mean = mean / mean.norm()
        if reach <= params.tol:
            break
    return Merged(sum(w * float(delta.norm()) for w, delta in zip(shares, deltas, strict=True)) * mean)


def tsv(library: Library, params: Any) -> Merged:
    """All singular vectors made orthonormal by the polar factor."""
    parts = [_triplets(delta, params.rank_tol) for delta in library.deltas()]
    values = torch.cat([w * s for w, (_, s, _) in zip(library.weights, parts, strict=True)])
    u, v = (_polar(torch.cat([part[side] for part in parts], dim=1)) for side in (0, 2))
    return Merged((u * values) @ v.T)


def iso_c(library: Library, params: Any) -> Merged:
    """The sum with all of its singular values at their mean."""
    u, s, v = _triplets(_sum(library.deltas(), library.weights), params.rank_tol)
    return Merged(s.mean() * u @ v.T)


def iso_cts(library: Library, params: Any) -> Merged:
    """Leading directions of the sum, then of what each adapter has beside them."""
    deltas = [w * delta for w, delta in zip(library.weights, library.deltas(), strict=True)]
    u, s, v = _triplets(_sum(deltas, [1.0] * library.n), params.rank_tol)
    rank = len(s)
    own = round((rank - int(rank * params.common)) / library.n)
    common = rank - library.n * own
    parts = [(u[:, :common], s[:common], v[:, :common])]
    for delta in deltas:
        rest = delta - parts[0][0] @ (parts[0][0].T @ delta)
        u_i, s_i, v_i = _triplets(rest, params.rank_tol)
        parts.append((u_i[:, :own], s_i[:own], v_i[:, :own]))
    level = torch.cat([part[1] for part in parts]).mean()
    u, v = (_polar(torch.cat([part[side] for part in parts], dim=1)) for side in (0, 2))
    return Merged(level * u @ v.T)


def wudi(library: Library, params: Any) -> Merged:
    """The ridge solution in closed form."""
    deltas = library.deltas()
    eye = torch.eye(deltas[0].shape[1], dtype=torch.float64)
    grams = [delta.T @ delta / delta.square().sum() + params.omega * eye for delta in deltas]
    left = _sum([delta @ gram for delta, gram in zip(deltas, grams, strict=True)], library.weights)
    return Merged(torch.linalg.solve(_sum(grams, library.weights), left, left=False))


def regmean(library: Library, params: Any) -> Merged:
    """`(sum delta_i H_i) (sum H_i)^-1` from Gram matrices of the inputs."""
    shares = [w / sum(library.weights) for w in library.weights]
    grams = [x.double().T @ x.double() / len(x) for x in library.inputs]
    floor = params.ridge * float(_sum(grams, shares).diagonal().mean())
    shrunk = []
    for gram in grams:
        shrunk.append(params.shrink * gram)
        shrunk[-1].diagonal().copy_(gram.diagonal() + floor)
    left = _sum([delta @ gram for delta, gram in zip(library.deltas(), shrunk, strict=True)], shares)
    return Merged(torch.linalg.solve(_sum(shrunk, shares), left, left=False))


def _sum(matrices: list[Tensor], weights: list[float]) -> Tensor:
    total = torch.zeros(matrices[0].shape, dtype=torch.float64)
    for weight, matrix in zip(weights, matrices, strict=True):
        total += weight * matrix.double()
    return total


def _triplets(matrix: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    held = int((s > tol * s[0]).sum())
    return u[:, :held], s[:held], vh[:held].T


def _polar(columns: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(columns, full_matrices=False)
    return u @ vh


def _trimmed(factor: Tensor, density: float) -> Tensor:
    dropped = int(factor.numel() * (1 - density))
    bound = factor.abs().flatten().sort().values[max(0, dropped - 1)]
    return torch.where(factor.abs() >= bound, factor, 0)


def _modelled(form: Callable[..., tuple[Tensor, float]], *more: Any) -> Callable[[Library, Any], Merged]:
    """A form that returns a matrix and an error, as the others are."""
    return lambda library, params: Merged(*form(library, params, *more))


_TWO = "two adapters"
_SVD_EACH = "an SVD per adapter"
_FACTORS = "acts on the factors; the dense product is all that differs"
_LEARNED = "given weights; learning is not timed"

DENSE: dict[str, Form] = {
    "mean": Form(weighted_sum),
    "cat": Form(weighted_sum),
    "task_arithmetic": Form(task_arithmetic),
    "lorahub": Form(weighted_sum, note=_LEARNED),
    "learned_cat": Form(weighted_sum, note=_LEARNED),
    "adamerging": Form(weighted_sum, note=_LEARNED),
    "linear_factors": Form(linear_factors, note=_FACTORS),
    "robust_merge": Form(robust_merge, note=_FACTORS),
    "svd": Form(svd),
    "slerp": Form(slerp, note=_TWO),
    "nuslerp": Form(slerp, note=_TWO),
    "multislerp": Form(multislerp),
    "karcher": Form(karcher),
    "tsv": Form(tsv, MIDDLE, _SVD_EACH),
    "iso_c": Form(iso_c),
    "iso_cts": Form(iso_cts, MIDDLE, _SVD_EACH),
    "wudi": Form(wudi),
    "regmean": Form(regmean, note="given inputs of 1,024 tokens per adapter"),
    "lego": Form(_modelled(lego), MIDDLE, _SVD_EACH),
    "tucker": Form(_modelled(tucker), SMALL, "Gram matrices of the unfoldings"),
    "tc_lora": Form(_modelled(tc_lora), SMALL, f"{SWEEPS} sweeps from one start, not to convergence"),
    "magnitude_prune": Form(_modelled(entry_wise, "magnitude_prune")),
    "ties": Form(_modelled(entry_wise, "ties")),
    "dare": Form(_modelled(entry_wise, "dare")),
    "dare_ties": Form(_modelled(entry_wise, "dare_ties")),
    "della": Form(_modelled(entry_wise, "della")),
    "breadcrumbs": Form(_modelled(entry_wise, "breadcrumbs")),
    "knots": Form(
        lambda library, params: Merged(in_knots_space(library, params)), SMALL, "an SVD of all deltas side by side"
    ),
    "core_space": Form(lambda library, params: Merged(in_core_space(library, params)), MIDDLE, _SVD_EACH),
}
