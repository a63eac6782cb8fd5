"""Arithmetic on whole adapters, from their factors alone: multiples, norms, angles, and random ones of equal norms.

In: adapters in memory or on disk. Out: adapters in memory, and plain numbers in float64. No delta is ever built. A
module that one of two adapters lacks is a zero delta there. Refused: nothing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tclora.adapters import Adapter, LoraFactors, make_adapter
from tclora.shapes import Float

__all__ = ["adapter_norm", "cosine", "random_like", "scaled"]


def scaled(adapter: Adapter, scale: float) -> Adapter:
    """The adapter times a number; at 1 the adapter itself.

    A scaled one no longer says where it was read from: its weights are not those of that file.
    """
    if scale == 1:
        return adapter
    modules = {path: LoraFactors(one.lora_a, one.lora_b * scale) for path, one in adapter.modules.items()}
    return _remade(adapter, modules)


def adapter_norm(adapter: Adapter) -> float:
    """Frobenius norm over all modules."""
    return _inner(adapter, adapter) ** 0.5


def cosine(one: Adapter, other: Adapter) -> float | None:
    """Cosine of the angle between two adapters, all modules as one vector; None where one of them is zero."""
    sizes = adapter_norm(one) * adapter_norm(other)
    return _inner(one, other) / sizes if sizes > 0 else None


def random_like(adapter: Adapter, *, seed: int) -> Adapter:
    """Gaussian factors of the adapter's shapes and ranks, each module with the Frobenius norm of the adapter's own."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for path, shape in adapter.shapes.items():
        drawn = LoraFactors(_gaussian(shape.r, shape.d_in, generator), _gaussian(shape.d_out, shape.r, generator))
        wanted = max(0.0, _factor_inner(adapter.modules[path], adapter.modules[path])) ** 0.5
        modules[path] = LoraFactors(drawn.lora_a, drawn.lora_b * (wanted / _factor_inner(drawn, drawn) ** 0.5))
    return _remade(adapter, modules)


def _remade(adapter: Adapter, modules: Mapping[str, LoraFactors]) -> Adapter:
    return make_adapter(
        adapter.name,
        modules,
        embeddings=[path for path, shape in adapter.shapes.items() if shape.kind == "embedding"],
        base_model=adapter.base_model,
        base_revision=adapter.base_revision,
        task_type=adapter.task_type,
        notes=adapter.notes,
        narrow_leaves=adapter.narrow_leaves,
    )


def _gaussian(n_rows: int, n_columns: int, generator: torch.Generator) -> Float[Tensor, "{n_rows} {n_columns}"]:
    return torch.randn((n_rows, n_columns), generator=generator)


def _inner(one: Adapter, other: Adapter) -> float:
    shared = [path for path in one.modules if path in other.modules]
    return sum(_factor_inner(one.modules[path], other.modules[path]) for path in shared)


def _factor_inner(one: LoraFactors, other: LoraFactors) -> float:
    """The inner product of two deltas, by the Grams of their factors."""
    out = one.lora_b.double().mT @ other.lora_b.double()
    into = one.lora_a.double() @ other.lora_a.double().mT
    return float((out * into).sum())
