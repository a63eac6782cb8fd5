"""Which modules are merged together: batches of one shape, in bounded memory, in an order that depends on content only.

Adapters are put in the order of their weights' digests before anything is computed, so the order in which a user names
them, the hash seed and the process cannot change a bit of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from tclora.adapters import Adapter, ModuleShape, check_mergeable, weights_digest
from tclora.algebra import ModuleStack
from tclora.errors import ConfigError

__all__ = ["MergePlan", "ModuleGroup", "plan_merge", "stack_modules"]

# Doubles held at once by one batch: stacks, bases and their copies while they are orthogonalized.
_GROUP_BYTES = 400_000_000
_COPIES = 6


@dataclass(frozen=True)
class ModuleGroup:
    """Modules of one shape and one pattern of ranks."""

    names: tuple[str, ...]
    d_out: int
    d_in: int
    kind: str
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class MergePlan:
    """Adapters in canonical order, their weights, and the batches of modules."""

    adapters: tuple[Adapter, ...]
    digests: tuple[str, ...]
    adapter_weights: tuple[float, ...]
    groups: tuple[ModuleGroup, ...]

    @property
    def n_modules(self) -> int:
        return sum(len(group.names) for group in self.groups)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the adapters say of themselves, and which of them hold the same weights."""
        said = [f"{adapter.name}: {note}" for adapter in self.adapters for note in adapter.notes]
        # Equal digests are neighbors in canonical order.
        pairs = zip(pairwise(self.adapters), pairwise(self.digests), strict=True)
        said += [
            f"{first.name} and {second.name} hold the same weights and count as two adapters"
            for (first, second), (left, right) in pairs
            if left == right
        ]
        return tuple(said)


def plan_merge(adapters: Sequence[Adapter], adapter_weights: Sequence[float]) -> MergePlan:
    """Check that the adapters belong together and lay out the work. Reads no tensor data but for the digests.

    Raises:
        ConfigError: there are no adapters.
        AdapterMismatchError: a module differs in shape between two adapters.
    """
    if not adapters:
        raise ConfigError("there is nothing to merge", expected="at least one adapter", do="name adapter folders")
    check_mergeable(adapters)
    digests = [weights_digest(adapter) for adapter in adapters]
    order = sorted(range(len(adapters)), key=lambda i: (digests[i], adapter_weights[i], adapters[i].name))
    ordered = tuple(adapters[i] for i in order)
    return MergePlan(
        ordered, tuple(digests[i] for i in order), tuple(adapter_weights[i] for i in order), _groups(ordered)
    )


def stack_modules(adapters: Sequence[Adapter], group: ModuleGroup) -> ModuleStack:
    """Read the group's factors and set them side by side; a missing module is a block of no columns."""
    factors = {name: [a.modules[name] if name in a.shapes else None for a in adapters] for name in group.names}
    wide = any(f is not None and f.lora_a.dtype == torch.float64 for row in factors.values() for f in row)
    dtype = torch.float64 if wide else torch.float32
    out_stack = torch.zeros(len(group.names), group.d_out, sum(group.ranks), dtype=dtype)
    in_stack = torch.zeros(len(group.names), group.d_in, sum(group.ranks), dtype=dtype)
    for j, name in enumerate(group.names):
        start = 0
        for rank, factor in zip(group.ranks, factors[name], strict=True):
            if factor is not None:
                out_stack[j, :, start : start + rank] = factor.lora_b
                in_stack[j, :, start : start + rank] = factor.lora_a.mT
            start += rank
    return ModuleStack(group.names, out_stack, in_stack, group.ranks)


def _groups(adapters: Sequence[Adapter]) -> tuple[ModuleGroup, ...]:
    shapes: dict[str, ModuleShape] = {}
    for adapter in adapters:
        for name, shape in adapter.shapes.items():
            shapes.setdefault(name, shape)
    by_key: dict[tuple, list[str]] = {}
    for name in sorted(shapes):
        shape = shapes[name]
        ranks = tuple(a.shapes[name].r if name in a.shapes else 0 for a in adapters)
        by_key.setdefault((shape.d_out, shape.d_in, shape.kind, ranks), []).append(name)
    return tuple(
        ModuleGroup(tuple(part), d_out, d_in, kind, ranks)
        for (d_out, d_in, kind, ranks), names in by_key.items()
        for part in _parts(names, d_out, d_in, sum(ranks))
    )


def _parts(names: list[str], d_out: int, d_in: int, total_rank: int) -> list[list[str]]:
    module_bytes = 8 * _COPIES * total_rank * (d_out + d_in)
    size = max(1, _GROUP_BYTES // module_bytes)
    return [names[start : start + size] for start in range(0, len(names), size)]
