"""The entry-wise merge methods as their papers have them, on whole float64 matrices; a part of `dense_forms`.

In: a library of adapters and the parameters of a method. Out: the merged matrix cut to the rank that the package
leaves (an SVD of the whole matrix), and the share that the cut loses. Random masks are those that the package documents
(`numpy`'s PCG64 seeded by seed, adapter and four words of the SHA-256 of the module's name), so results can be held
against each other entry by entry.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["entry_wise", "in_core_space", "in_knots_space"]


def entry_wise(library: Any, params: Any, rule: str) -> tuple[Tensor, float]:
    """One of the six rules on the deltas themselves, then the best approximation of rank P."""
    kept = _kept(library.deltas(), params, rule, library.name)
    merged = _combined(kept, library.weights, params, rule)
    rank = params.rank or sum(b.shape[1] for b in library.out)
    u, s, vh = torch.linalg.svd(merged, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank], float(s[rank:].norm() / s.norm())


def in_knots_space(library: Any, params: Any) -> Tensor:
    """KnOTS: `[delta_1 ... delta_n] = U S [V_1 ... V_n]`, the rule on the blocks `S V_i`, then `U`."""
    deltas = library.deltas()
    u, s, vh = torch.linalg.svd(torch.cat(deltas, dim=1), full_matrices=False)
    held = int((s > 1e-10 * s[0]).sum())
    blocks = list((s[:held, None] * vh[:held]).split(deltas[0].shape[1], dim=1))
    kept = _kept(blocks, params, params.inner, library.name)
    return u[:, :held] @ _combined(kept, library.weights, params, params.inner)


def in_core_space(library: Any, params: Any) -> Tensor:
    """Core Space: the rule on `U.T delta_i V`, with `U`, `V` from all balanced factors side by side."""
    deltas, out, into = library.deltas(), [], []
    for delta, b in zip(deltas, library.out, strict=True):
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        rank = b.shape[1]
        out.append(u[:, :rank] * s[:rank].sqrt())
        into.append(vh[:rank].T * s[:rank].sqrt())
    left, right = (torch.linalg.svd(torch.cat(side, dim=1), full_matrices=False)[0] for side in (out, into))
    kept = _kept([left.T @ delta @ right for delta in deltas], params, params.inner, library.name)
    return left @ _combined(kept, library.weights, params, params.inner) @ right.T


def _kept(matrices: list[Tensor], params: Any, rule: str, name: str) -> list[Tensor]:
    density = params.density
    if density >= 1 or rule == "mean":
        return matrices
    if rule in ("magnitude_prune", "ties"):
        return [_largest(matrix, density) for matrix in matrices]
    if rule == "breadcrumbs":
        return [_band(matrix, density, params.gamma) for matrix in matrices]
    kept = []
    for i, matrix in enumerate(matrices):
        chance = torch.full_like(matrix, density) if rule != "della" else _chances(matrix, density, params.epsilon)
        kept.append(torch.where(_uniform(matrix, params.seed, name, i) < chance, matrix / chance, 0))
    return kept


def _largest(matrix: Tensor, density: float) -> Tensor:
    count = max(1, int(density * matrix.numel()))
    bound = matrix.abs().flatten().sort().values[matrix.numel() - count]
    return torch.where(matrix.abs() >= bound, matrix, 0)


def _band(matrix: Tensor, density: float, gamma: float) -> Tensor:
    size, count = matrix.numel(), max(1, int(density * matrix.numel()))
    top = min(int(gamma * size), size - count)
    ordered = matrix.abs().flatten().sort().values
    low, high = ordered[size - top - count], ordered[size - top - 1]
    return torch.where((matrix.abs() >= low) & (matrix.abs() <= high), matrix, 0)


def _chances(matrix: Tensor, density: float, epsilon: float) -> Tensor:
    places = matrix.abs().argsort(dim=1, stable=True).argsort(dim=1).double() / (matrix.shape[1] - 1)
    return density - epsilon + 2 * epsilon * places


def _uniform(matrix: Tensor, seed: int, name: str, adapter: int) -> Tensor:
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
    generator = np.random.default_rng([seed, adapter, *(int(word) for word in words)])
    return torch.from_numpy(generator.random(tuple(matrix.shape)))


def _combined(kept: list[Tensor], weights: list[float], params: Any, rule: str) -> Tensor:
    """The weighted sum, or the mean (or sum) of the entries whose weighted sign is the elected one."""
    weighted = [weight * matrix for weight, matrix in zip(weights, kept, strict=True)]
    total = torch.zeros_like(kept[0])
    for matrix in weighted:
        total += matrix
    if rule not in ("ties", "dare_ties", "della"):
        return total
    sign = torch.where(total >= 0, 1.0, -1.0)
    merged, share = torch.zeros_like(total), torch.zeros_like(total)
    for weight, matrix in zip(weights, weighted, strict=True):
        agrees = matrix.sign() == sign
        merged += torch.where(agrees, matrix, 0)
        share += abs(weight) * agrees
    return merged / torch.where(share == 0, 1, share) if params.normalize else merged
