"""Which modules are merged together: batches of one shape and one setting, in an order that depends on content only.

Adapters are put in the order of their weights before anything is computed, so the order in which a user names them,
the hash seed and the process cannot change a bit of the result. Batches are small: memory is bounded by those at work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import torch
from torch import Tensor

from tclora.adapters import (
    Adapter,
    LoraFactors,
    ModuleShape,
    check_mergeable,
    content_key,
    stored_factors,
    weights_digest,
)
from tclora.algebra import ModuleStack, blocks_of
from tclora.errors import ConfigError
from tclora.merging.method import Params
from tclora.merging.settings import ModuleSettings

__all__ = ["MergePlan", "ModuleGroup", "Room", "plan_merge", "refuse_none", "stack_modules", "with_params"]

# Bytes of one batch's stacks in float32, and the copies of them that a method may hold at once.
_GROUP_BYTES = 300_000_000
_COPIES = 2
# Enough to share the overhead of a call, few enough to leave work for every worker.
_MOST_MODULES = 16
# Scales by which no bfloat16 is rounded.
_EXACT_SCALES = frozenset(2.0**k for k in range(64))


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
        # Equal weights are neighbors in canonical order; with another config they may have another scale.
        pairs = zip(pairwise(self.adapters), pairwise(digests), strict=True)
        said += [
            f"{first.name} and {second.name} hold the same weights and count as two adapters"
            for (first, second), (left, right) in pairs
            if left == right and _config_of(first) == _config_of(second)
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
        self._held: dict[str, Tensor] = {}

    def take(self, side: str, *sizes: int, dtype: torch.dtype) -> Tensor:
        """An array of these sizes with anything in it; only this room's last one of the side stays valid."""
        n_bytes, held = math.prod(sizes) * dtype.itemsize, self._held.get(side)
        if held is None or held.numel() < n_bytes:
            held = self._held[side] = torch.empty(n_bytes, dtype=torch.uint8)
        return held[:n_bytes].view(dtype).view(*sizes)


def stack_modules(adapters: Sequence[Adapter], group: ModuleGroup, room: Room | None = None) -> ModuleStack:
    """Read the group's factors and set them side by side; a missing module is a block of no columns.

    With a `room` the stack lies in its memory, and is gone when the room is used again.
    """
    m, total_rank = len(group.names), sum(group.ranks)
    stored = [
        [stored_factors(adapter.modules, name) if rank else None for name in group.names]
        for adapter, rank in zip(adapters, group.ranks, strict=True)
    ]
    dtype = _dtype_of([one for of_adapter in stored for one in of_adapter if one is not None])
    room = room or Room()
    out_stack = room.take("out", m, group.d_out, total_rank, dtype=dtype)
    # Rows of lora_a stay rows; the stack is a view of them.
    in_rows = room.take("in", m, total_rank, group.d_in, dtype=dtype)
    for of_adapter, block in zip(stored, blocks_of(group.ranks), strict=True):
        for j, one in enumerate(of_adapter):
            if one is not None:
                factors, scale = one
                in_rows[j, block] = factors.lora_a
                _put(out_stack[j, :, block], factors.lora_b, scale)
    return ModuleStack(group.names, out_stack, in_rows.mT, group.ranks)


def _put(place: Tensor, lora_b: Tensor, scale: float) -> None:
    if scale == 1.0:
        place.copy_(lora_b)
    elif place.dtype == lora_b.dtype:
        torch.mul(lora_b, scale, out=place)
    else:
        # A product is rounded to the dtype of its factors, so those are made wide first.
        place.copy_(lora_b).mul_(scale)


def _dtype_of(stored: Sequence[tuple[LoraFactors, float]]) -> torch.dtype:
    """The narrowest dtype that holds all factors and scaled `lora_b` as exactly as float32 does, or float64 for those.

    Half the memory is half the traffic. A bfloat16 has the range of a float32, so powers of two from 1 on cost it
    nothing; smaller ones could leave that range at its lower end.
    """
    dtypes = {side.dtype for factors, _ in stored for side in (factors.lora_a, factors.lora_b)}
    if torch.float64 in dtypes:
        return torch.float64
    if dtypes == {torch.bfloat16} and all(abs(scale) in _EXACT_SCALES for _, scale in stored):
        return torch.bfloat16
    unchanged = all(scale == 1.0 for _, scale in stored)
    return torch.float16 if dtypes == {torch.float16} and unchanged else torch.float32


def _canonical_order(adapters: Sequence[Adapter], settings: Mapping[str, ModuleSettings]) -> tuple[int, ...]:
    """By content; full digests are taken only where the quick keys of two adapters agree."""
    keys = [content_key(adapter) for adapter in adapters]
    weights = [tuple(settings[name].adapter_weights[i] for name in sorted(settings)) for i in range(len(adapters))]
    order: list[int] = []
    for _, alike in groupby(sorted(range(len(adapters)), key=lambda i: keys[i]), key=lambda i: keys[i]):
        places = list(alike)
        digests = {i: weights_digest(adapters[i]) if len(places) > 1 else "" for i in places}
        order += sorted(places, key=lambda i: (digests[i], _config_of(adapters[i]), weights[i], adapters[i].name))
    return tuple(order)


def _config_of(adapter: Adapter) -> str:
    """What tells adapters of equal weights apart: the digest of the config, in which their scales are."""
    return adapter.source.config_sha256 if adapter.source else ""


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
    """Batches of nearly equal length."""
    module_bytes = 4 * _COPIES * total_rank * (d_out + d_in)
    most = max(1, min(_MOST_MODULES, _GROUP_BYTES // module_bytes))
    size = math.ceil(len(names) / math.ceil(len(names) / most))
    return [names[start : start + size] for start in range(0, len(names), size)]
