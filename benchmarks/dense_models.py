"""The textbook forms that fit a model or a clustering, on dense matrices; a part of `dense_forms`.

In: a library of adapters and the parameters of a method. Out: the merged matrix and the relative error of the model.
Each ends in a local optimum of its own, so the errors are what can be compared with the package's.
"""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["SWEEPS", "lego", "tc_lora", "tucker"]

SWEEPS = 30


def lego(library: Any, params: Any) -> tuple[Tensor, float]:
    """Lloyd's algorithm up to sign from seeded starts; another draw than the package's, so errors are compared."""
    points, weights = [], []
    for w, delta in zip(library.weights, library.deltas(), strict=True):
        u, s, v = _units(delta)
        points.append(torch.cat([u * s.sqrt(), v * s.sqrt()]).T)
        weights.append(torch.full((len(s),), w, dtype=torch.float64))
    units, weight, r = torch.cat(points), torch.cat(weights), max(len(part) for part in points)
    k, generator = params.rank or r, torch.Generator().manual_seed(params.seed)
    inertia, labels, centers = min(
        (_lloyd(units, weight, k, params.max_iter, generator) for _ in range(params.n_starts)), key=lambda run: run[0]
    )
    for c in range(k):
        members, share = units[labels == c], weight[labels == c]
        if params.restore_norm:
            centers[c] *= (share * members.norm(dim=1)).sum() / share.sum() / centers[c].norm()
        if params.scale_output:
            centers[c] *= (r / k) ** 0.25
    d_out = library.out[0].shape[0]
    whole = (weight * units.square().sum(1)).sum()
    return centers[:, :d_out].T @ centers[:, d_out:], math.sqrt(inertia / float(whole))


def tucker(library: Any, params: Any) -> tuple[Tensor, float]:
    """Higher-order orthogonal iteration; singular vectors of the unfoldings from their Gram matrices."""
    tensor, rank = torch.stack(library.deltas(), dim=2), params.tucker_rank
    u, v = _leading(tensor.flatten(1), rank), _leading(tensor.transpose(0, 1).flatten(1), rank)
    fit, total = 0.0, float(tensor.norm())
    for _ in range(params.max_iter):
        u = _leading(torch.einsum("pqn,qr->prn", tensor, v).flatten(1), rank)
        v = _leading(torch.einsum("pqn,pr->qrn", tensor, u).flatten(1), rank)
        core = torch.einsum("pqn,pr,qs->rsn", tensor, u, v)
        before, fit = fit, float(core.norm())
        if fit - before < 1e-10 * total:
            break
    small = (core * torch.tensor(library.weights, dtype=torch.float64)).sum(2)
    return u @ small @ v.T, math.sqrt(max(0.0, 1 - (fit / total) ** 2))


def tc_lora(library: Any, params: Any) -> tuple[Tensor, float]:
    """Alternating least squares from one normal start, so many sweeps as `SWEEPS`, then the mean of the components."""
    tensor, rank = torch.stack(library.deltas(), dim=2), params.cp_rank
    generator = torch.Generator().manual_seed(params.seed)
    out, into, adapter = (torch.randn(d, rank, generator=generator, dtype=torch.float64) for d in tensor.shape)
    for _ in range(SWEEPS):
        out = _least_squares(torch.einsum("pqn,qr,nr->pr", tensor, into, adapter), into, adapter)
        into = _least_squares(torch.einsum("pqn,pr,nr->qr", tensor, out, adapter), out, adapter)
        adapter = _least_squares(torch.einsum("pqn,pr,qr->nr", tensor, out, into), out, into)
    residual = tensor - torch.einsum("pr,qr,nr->pqn", out, into, adapter)
    weights = torch.tensor(library.weights, dtype=torch.float64) @ adapter
    return (out * weights) @ into.T, float(residual.norm() / tensor.norm())


def _least_squares(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.solve((one.T @ one) * (other.T @ other), product, left=False)


def _leading(unfolding: Tensor, rank: int) -> Tensor:
    return torch.linalg.eigh(unfolding @ unfolding.T)[1][:, -rank:]


def _units(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    held = int((s > 1e-6 * s[0]).sum())
    return u[:, :held], s[:held], vh[:held].T


def _lloyd(points: Tensor, weights: Tensor, k: int, sweeps: int, generator: torch.Generator):
    centers = points[torch.randperm(len(points), generator=generator)[:k]].clone()
    labels = torch.zeros(len(points), dtype=torch.int64)
    inertia = math.inf
    for _ in range(sweeps):
        products = points @ centers.T
        distances = points.square().sum(1)[:, None] + centers.square().sum(1) - 2 * products.abs()
        least, labels = distances.min(dim=1)
        before, inertia = inertia, float((weights * least).sum())
        for c in range(k):
            mine = labels == c
            if mine.any():
                signs = torch.where(products[mine, c] < 0, -1.0, 1.0) * weights[mine]
                centers[c] = (signs[:, None] * points[mine]).sum(0) / weights[mine].sum()
        if inertia >= before * (1 - 1e-12):
            break
    return inertia, labels, centers
