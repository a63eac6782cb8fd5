"""LoRA-LEGO: adapters taken apart into rank-one units, units clustered, cluster centers put together.

In: a stack and non-negative weights. Out: a LoRA with one term per cluster. A unit is a singular triplet of an adapter,
its singular value split evenly between the two sides, as one point `[out; in]`; so how an adapter was factored does not
matter. `(out, in)` and `(-out, -in)` are the same unit, so the clustering is up to sign; units of one adapter are at
right angles and keep the relative sign that the compression fixed.

The paper clusters the rows of `lora_a` with the columns of `lora_b` as they were trained; its constants were not at
hand, and the two scales below are taken from its description (norm decay of centers, variance expansion of sums).
Refused: negative weights, settings below 1.

Source: Zhao et al. 2024, arXiv 2409.16167.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tclora.algebra import CompressedStack, ModuleStack, compress_stack, lift
from tclora.algebra.sign_kmeans import SignClusters, sign_kmeans
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.shapes import Float

__all__ = ["LegoParams", "lego"]

# Singular values below this share of an adapter's largest are rounding of its stored factors, not units.
_NOISE = 1e-6


@dataclass(frozen=True)
class LegoParams:
    """`rank`: clusters, the rank of the result; None takes the largest rank among the adapters.

    `restore_norm`: give every center the mean length of its members, which averaging shortens. `scale_output`:
    multiply the result by `sqrt(r / k)`, `r` the units of the largest adapter and `k` the clusters found.
    `n_starts`, `max_iter` and `seed` are for the clustering.
    """

    rank: int | None = None
    restore_norm: bool = True
    scale_output: bool = True
    n_starts: int = 10
    max_iter: int = 100
    seed: int = 0

    def __post_init__(self):
        values = {"rank": self.rank, "n_starts": self.n_starts, "max_iter": self.max_iter, "seed": self.seed}
        for name, value in values.items():
            low = 0 if name == "seed" else 1
            if value is not None and value < low:
                raise ConfigError(f"'{name}' of lego is too small", found=value, expected=f">= {low}")

    def holding(self, rank: int) -> "LegoParams":
        """A cluster for every unit."""
        return self if self.rank is None else replace(self, rank=max(self.rank, rank))


@MERGE_METHODS.register(
    "lego",
    source="Zhao et al. 2024, arXiv 2409.16167",
    params=LegoParams,
    needs="adapters",
    leaves="rank R",
    cost="O(d P^2) + sweeps P^2 R",
    default_weight="one",
)
def lego(stack: ModuleStack, params: LegoParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Rank-one units of all adapters clustered by k-means; one term per cluster, with norms and scale restored.

    Weights are the units' weights in the clustering, so only their proportions matter and weight 0 leaves an adapter
    out. `relative_error` is the root of the share of the units' squared lengths that the clusters do not explain.

    Raises:
        ConfigError: a weight is negative.
    """
    if bool((adapter_weights < 0).any()):
        raise ConfigError("lego takes no negative weights", found=float(adapter_weights.min()), expected=">= 0")
    compressed = compress_stack(stack)
    k = params.rank or max(1, *stack.ranks)
    p, q = compressed.out_blocks.shape[1], compressed.in_blocks.shape[1]
    centers, errors, figures = [], [], []
    for j, name in enumerate(stack.names):
        points, weights, r = _units(compressed, j, adapter_weights[j])
        if len(points) == 0:
            centers.append(np.zeros((1, p + q)))
            errors.append(0.0)
            figures.append({"n_clusters": 0})
            continue
        key = [params.seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])]
        found = sign_kmeans(points, weights, k, key=key, n_starts=params.n_starts, max_iter=params.max_iter)
        centers.append(_rebuilt(points, weights, found, r, params))
        errors.append(math.sqrt(found.inertia / float((weights * (points**2).sum(axis=1)).sum())))
        figures.append({"n_clusters": len(found.centroids)})
    width = max(len(c) for c in centers)
    small = torch.from_numpy(np.stack([np.pad(c, ((0, width - len(c)), (0, 0))) for c in centers]))
    small = small.to(compressed.out_blocks.device).mT
    delta = lift(compressed, small[:, :p].contiguous(), small[:, p:].contiguous())
    return MergedStack(delta, torch.tensor(errors, dtype=torch.float64), compressed.size().cpu(), tuple(figures))


def _units(compressed: CompressedStack, j: int, adapter_weights: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    """Points and weights of one module's units, and the number of units of the largest adapter."""
    columns = torch.cat([compressed.out_blocks[j], compressed.in_blocks[j]]).mT.cpu()
    values = compressed.singular_values()[j].cpu()
    kept, largest = torch.zeros_like(values, dtype=torch.bool), 0
    for i, block in enumerate(compressed.blocks()):
        own = values[block]
        if len(own) and float(adapter_weights[i]) > 0:
            kept[block] = (own > _NOISE * own[0]) & (own > 0)
            largest = max(largest, int(kept[block].sum()))
    weights = compressed.spread(adapter_weights[None].expand(compressed.m, -1))[j].cpu()
    return columns[kept].numpy(), weights[kept].numpy(), largest


def _rebuilt(points: np.ndarray, weights: np.ndarray, found: SignClusters, r: int, params: LegoParams) -> np.ndarray:
    """The centers, at their members' mean length and the output's scale; the latter is split between the two sides."""
    centers = found.centroids
    if params.restore_norm:
        member = (found.labels[:, None] == np.arange(len(centers))) * weights[:, None]
        wanted = member.T @ np.sqrt((points**2).sum(axis=1)) / member.sum(axis=0)
        length = np.sqrt((centers**2).sum(axis=1))
        centers = centers * (wanted / np.where(length > 0, length, 1))[:, None]
    if params.scale_output:
        centers = centers * (r / len(centers)) ** 0.25
    return centers
