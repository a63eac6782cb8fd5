"""An adapter of no more than a given rank, and what that costs in every module.

In: an adapter and a rank. Out: the adapter with each wider module replaced by its best approximation of that rank
(Eckart and Young 1936), taken in float64 from the factors alone, and the share of each such module that is lost.
Modules within the rank are left as they are. Refused: a rank below 1.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from tclora.adapters import Adapter, LoraFactors, make_adapter
from tclora.algebra import LowRankDelta, relative_distance, svd_of_product
from tclora.errors import ConfigError

__all__ = ["cut_rank", "largest_rank", "module_distances"]


def largest_rank(adapter: Adapter) -> int:
    """The largest rank over the modules, as stored."""
    return max(shape.r for shape in adapter.shapes.values())


def cut_rank(adapter: Adapter, rank: int) -> tuple[Adapter, Mapping[str, float]]:
    """The adapter with modules of at most `rank`, and the relative error of each module that was cut.

    The error is the Frobenius norm of what is lost over that of the delta: 0 for a delta of zeros, and about 1e-8 where
    the module's true rank was within `rank`. An adapter that is within `rank` comes back itself, unread.

    Raises:
        ConfigError: `rank` is below 1.
        AdapterError: a module that has to be read is damaged.
    """
    if rank < 1:
        raise ConfigError("a rank is 1 or more", found=rank)
    wide = [path for path, shape in adapter.shapes.items() if shape.r > rank]
    if not wide:
        return adapter, MappingProxyType({})
    cut = {path: _truncated(adapter.modules[path], rank) for path in wide}
    return (
        make_adapter(
            adapter.name,
            {path: cut[path][0] if path in cut else adapter.modules[path] for path in adapter.shapes},
            embeddings=[path for path, shape in adapter.shapes.items() if shape.kind == "embedding"],
            base_model=adapter.base_model,
            base_revision=adapter.base_revision,
            task_type=adapter.task_type,
            source=adapter.source,
            notes=adapter.notes,
            narrow_leaves=adapter.narrow_leaves,
        ),
        MappingProxyType({path: error for path, (_, error) in cut.items()}),
    )


def module_distances(first: Adapter, second: Adapter) -> Mapping[str, float]:
    """The relative Frobenius distance of every module's delta in `first` from that in `second`, in float64.

    Raises:
        ShapeError: the two do not hold the same modules.
    """
    return {path: _distance(path, first.modules[path], second.modules[path]) for path in second.shapes}


def _distance(path: str, first: LoraFactors, second: LoraFactors) -> float:
    one, other = (LowRankDelta((path,), x.lora_b[None].double(), x.lora_a[None].double()) for x in (first, second))
    return float(relative_distance(one, other))


def _truncated(factors: LoraFactors, rank: int) -> tuple[LoraFactors, float]:
    u, s, vh = (part[0] for part in svd_of_product(factors.lora_b[None].double(), factors.lora_a[None].double()))
    # Both factors carry the square root of the singular values, so that half precision loses least of either.
    root = s[:rank].sqrt()
    whole, lost = (float(torch.linalg.vector_norm(values)) for values in (s, s[rank:]))
    kept = LoraFactors((vh[:rank] * root[:, None]).float(), (u[:, :rank] * root).float())
    return kept, lost / whole if whole > 0 else 0.0
