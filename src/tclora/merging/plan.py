"""Which modules are merged together: batches of one shape and one setting, in an order that depends on content only.

Adapters are put in the order of their weights before anything is computed, so the order in which a user names them,
the hash seed and the process cannot change a bit of the result. Batches are small: memory is bounded by those at work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from tclora.adapters import Adapter, ModuleShape, check_mergeable, content_key, copy_factors, weights_digest
from tclora.algebra import ModuleStack, blocks_of
from tclora.errors import ConfigError
from tclora.merging.method import Params
from tclora.merging.settings import ModuleSettings

__all__ = ["MergePlan", "ModuleGroup", "Room", "plan_merge", "refuse_none", "stack_modules", "with_params"]

# Bytes of one batch's stacks, and the copies of them that a method may hold at once.
_GROUP_BYTES = 300_000_000
_COPIES = 2
# Enough to share the overhead of a call, few enough to leave work for every worker.
_MOST_MODULES = 12


@dataclass(frozen=True)
class ModuleGroup:
    """Modules of one shape, one pattern of ranks and one setting of the method's parameters."""

    names: tuple[str, ...]
    d_out: int
    d_in: int
    kind: str
    ranks: tuple[int, ...]
    params: Params | None = None


@dataclass(frozen=True)
class MergePlan:
    """Adapters in canonical order, what holds for each module in that order, and the batches of modules.

    `order[k]` is the caller's place of the adapter that is `k`-th here. `settings` is empty where none were given.
    """

    adapters: tuple[Adapter, ...]
    order: tuple[int, ...]
    groups: tuple[ModuleGroup, ...]
    settings: Mapping[str, ModuleSettings] = field(default_factory=dict)

    @property
    def n_modules(self) -> int:
        return sum(len(group.names) for group in self.groups)

    @property
    def adapter_weights(self) -> tuple[float, ...]:
        """The weights that hold for most modules."""
        seen: dict[tuple[float, ...], int] = {}
        for setting in self.settings.values():
            seen[setting.adapter_weights] = seen.get(setting.adapter_weights, 0) + 1
        return max(seen, key=lambda weights: seen[weights])

    def notes(self, digests: Sequence[str]) -> tuple[str, ...]:
        """What the adapters say of themselves, and which of them hold the same weights."""
        said = [f"{adapter.name}: {note}" for adapter in self.adapters for note in adapter.notes]
        # Equal weights are neighbors in canonical order.
        pairs = zip(pairwise(self.adapters), pairwise(digests), strict=True)
        said += [
            f"{first.name} and {second.name} hold the same weights and count as two adapters"
            for (first, second), (left, right) in pairs
            if left == right
        ]
        return tuple(said)


def plan_merge(adapters: Sequence[Adapter], settings: Mapping[str, ModuleSettings] | None = None) -> MergePlan:
    """Check that the adapters belong together and lay out the work. Reads little tensor data.

    Args:
        settings: what holds for each module, for the adapters in the caller's order.

    Raises:
        ConfigError: there are no adapters.
        AdapterMismatchError: a module differs in shape between two adapters.
    """
    refuse_none(adapters)
    check_mergeable(adapters)
    order = _canonical_order(adapters, settings or {})
    ordered = tuple(adapters[i] for i in order)
    turned = {name: setting.in_order(order) for name, setting in (settings or {}).items()}
    turned = _share_params(turned, settings or {})
    return MergePlan(ordered, order, _groups(ordered, {name: s.params for name, s in turned.items()}), turned)


def refuse_none(adapters: Sequence[Adapter]) -> None:
    """Refuse to merge nothing.

    Raises:
        ConfigError: there are no adapters.
    """
    if not adapters:
        raise ConfigError("there is nothing to merge", expected="at least one adapter", do="name adapter folders")


def with_params(plan: MergePlan, params: Mapping[str, Params]) -> MergePlan:
    """The same plan with other parameters for each module."""
    settings = {
        name: ModuleSettings(setting.adapter_weights, params[name], setting.scale)
        for name, setting in plan.settings.items()
    }
    return MergePlan(plan.adapters, plan.order, _groups(plan.adapters, params), settings)


class Room:
    """Memory for one stack at a time, taken again for the next: a fresh page costs more than what is written to it."""

    def __init__(self):
        self._held: dict[str, np.ndarray] = {}

    def take(self, side: str, *sizes: int, dtype: torch.dtype) -> Tensor:
        """An array of these sizes with anything in it; it is this room's last one of the side that stays valid."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        count, held = math.prod(sizes), self._held.get(side)
        if held is None or held.dtype != kind or held.size < count:
            # NumPy asks the system for huge pages, which torch does not.
            held = self._held[side] = np.empty(count, dtype=kind)
        return torch.from_numpy(held[:count]).view(*sizes)


def stack_modules(adapters: Sequence[Adapter], group: ModuleGroup, room: Room | None = None) -> ModuleStack:
    """Read the group's factors and set them side by side; a missing module is a block of no columns.

    With a `room` the stack lies in its memory, and is gone when the room is used again.
    """
    m, total_rank = len(group.names), sum(group.ranks)
    doubles = (a.shapes[name].is_double for a in adapters for name in group.names if name in a.shapes)
    dtype = torch.float64 if any(doubles) else torch.float32
    room = room or Room()
    out_stack = room.take("out", m, group.d_out, total_rank, dtype=dtype)
    # Rows of lora_a stay rows; the stack is a view of them.
    in_rows = room.take("in", m, total_rank, group.d_in, dtype=dtype)
    for adapter, block in zip(adapters, blocks_of(group.ranks), strict=True):
        if block.stop > block.start:
            for j, name in enumerate(group.names):
                copy_factors(adapter.modules, name, out_stack[j, :, block], in_rows[j, block])
    return ModuleStack(group.names, out_stack, in_rows.mT, group.ranks)


def _canonical_order(adapters: Sequence[Adapter], settings: Mapping[str, ModuleSettings]) -> tuple[int, ...]:
    """By content; full digests are taken only where the quick keys of two adapters agree."""
    keys = [content_key(adapter) for adapter in adapters]
    weights = [tuple(settings[name].adapter_weights[i] for name in sorted(settings)) for i in range(len(adapters))]
    order: list[int] = []
    for _, alike in groupby(sorted(range(len(adapters)), key=lambda i: keys[i]), key=lambda i: keys[i]):
        places = list(alike)
        digests = {i: weights_digest(adapters[i]) if len(places) > 1 else "" for i in places}
        order += sorted(places, key=lambda i: (digests[i], weights[i], adapters[i].name))
    return tuple(order)


def _share_params(
    turned: dict[str, ModuleSettings], settings: Mapping[str, ModuleSettings]
) -> dict[str, ModuleSettings]:
    """Let modules that shared one params object share one again: groups are told apart by it."""
    kept: dict[int, Params] = {}
    return {
        name: ModuleSettings(s.adapter_weights, kept.setdefault(id(settings[name].params), s.params), s.scale)
        for name, s in turned.items()
    }


def _groups(adapters: Sequence[Adapter], params: Mapping[str, Params]) -> tuple[ModuleGroup, ...]:
    shapes: dict[str, ModuleShape] = {}
    for adapter in adapters:
        for name, shape in adapter.shapes.items():
            shapes.setdefault(name, shape)
    by_key: dict[tuple, list[str]] = {}
    for name in sorted(shapes):
        shape = shapes[name]
        ranks = tuple(a.shapes[name].r if name in a.shapes else 0 for a in adapters)
        by_key.setdefault((shape.d_out, shape.d_in, shape.kind, ranks, id(params.get(name))), []).append(name)
    groups = (
        ModuleGroup(tuple(part), d_out, d_in, kind, ranks, params.get(part[0]))
        for (d_out, d_in, kind, ranks, _), names in by_key.items()
        for part in _parts(names, d_out, d_in, sum(ranks))
    )
    # The largest first: then no worker is left with much to do when the others are done.
    return tuple(sorted(groups, key=lambda g: -len(g.names) * (g.d_out + g.d_in) * sum(g.ranks)))


def _parts(names: list[str], d_out: int, d_in: int, total_rank: int) -> list[list[str]]:
    module_bytes = 4 * _COPIES * total_rank * (d_out + d_in)
    size = max(1, min(_MOST_MODULES, _GROUP_BYTES // module_bytes))
    return [names[start : start + size] for start in range(0, len(names), size)]
