"""The merge itself: batch by batch through a method, to one adapter, with every figure recorded.

In: adapters of one base model. Out: a `MergeResult` with an ordinary adapter in float32. Adapters may differ in rank,
scaling, targets and dtype; a module that an adapter lacks is a zero delta. Refused: modules of one name and different
shapes, values that are not finite, a method that does not return one adapter at weight 1.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from tclora.adapters import Adapter, ModuleShape, check_mergeable, leaf_of, own_threads, weights_digest
from tclora.algebra import ModuleStack
from tclora.merging.engine import MergedGroup, merge_groups, resolve_device, resolve_workers
from tclora.merging.method import MERGE_METHODS, Params, recorded_params
from tclora.merging.plan import MergePlan, plan_merge, refuse_none, stack_modules, with_params
from tclora.merging.settings import Override, resolve_settings
from tclora.merging.spool import FactorSpool
from tclora.records import MergeRecord

__all__ = ["MergeResult", "merge_adapters", "merge_record"]


@dataclass(frozen=True)
class MergeResult:
    """One merged adapter and what is known of it.

    `relative_error` is that of the method's model over all modules; `identity_error` the largest distance found by the
    identity check; `modules` the figures of each module; `plan` the adapters in canonical order and what held for each
    module; `digests` the sha256 of each adapter's weights in that order. `params` are those that held for most modules.
    """

    adapter: Adapter
    method: str
    params: Params
    plan: MergePlan
    digests: tuple[str, ...]
    scale: float
    relative_error: float
    identity_error: float
    modules: dict[str, dict[str, object]]
    wall_s: float
    said: tuple[str, ...] = ()

    @property
    def out_rank(self) -> int:
        """The largest rank over the modules."""
        return max(shape.r for shape in self.adapter.shapes.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the adapters say of themselves, which of them hold the same weights, and what was `said` since."""
        return self.plan.notes(self.digests) + self.said


def merge_adapters(  # noqa: PLR0913 - the one call a library user makes; all but the data is keyword-only
    adapters: Sequence[Adapter],
    method: str = "tc_lora",
    *,
    params: Params | Mapping[str, object] | None = None,
    adapter_weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    scale: float = 1.0,
    overrides: Sequence[Override] = (),
    device: str = "cpu",
    workers: int | None = None,
    spool: Path | None = None,
    name: str = "merged",
    on_progress: Callable[[int, int], None] | None = None,
) -> MergeResult:
    """Merge adapters of one base model into one.

    Args:
        params: the method's parameter class, or plain values for it; None takes its defaults.
        adapter_weights: one per adapter, used as given, or such a list per module; None takes the method's own, `1 / n`
            each for most.
        scale: multiplies the merged delta.
        overrides: other weights, parameters or scale for the modules that a pattern means; later ones win.
        device: `cpu`, `cuda` or `auto`.
        workers: batches of modules worked on at a time; None takes the number of cores. Any number gives the same bits.
        spool: a file that holds the merged factors while the merge runs, which then cost no memory; the result reads
            from it, so it must outlive the result. None keeps them in memory.
        on_progress: called with modules done and modules in all.

    Raises:
        ConfigError: weights, scale or parameters are out of range, or an override means no module.
        AdapterError, AdapterMismatchError: an adapter is damaged, or two do not belong together.
        NumericalError: the identity check failed.
    """
    start = time.monotonic()
    refuse_none(adapters)
    check_mergeable(adapters)
    settings = resolve_settings(
        sorted({path for adapter in adapters for path in adapter.shapes}),
        method,
        len(adapters),
        params=params,
        adapter_weights=adapter_weights,
        scale=scale,
        overrides=overrides,
    )
    plan = _prepared(plan_merge(adapters, settings), method)
    merged = _Merged(spool)
    with own_threads(1) as background:
        # Digests are for the record; reading the files in order also warms them for the batches.
        digests = background.map(weights_digest, plan.adapters)
        workers = resolve_workers(workers, len(plan.groups))
        for group in merge_groups(plan, MERGE_METHODS[method], device=resolve_device(device), workers=workers):
            merged.add(group)
            if on_progress:
                on_progress(len(merged.modules), plan.n_modules)
        digests = tuple(digests)
    for adapter in plan.adapters:
        if adapter.source is not None:
            adapter.source.check_unchanged()
    return MergeResult(
        adapter=_as_adapter(name, merged, plan),
        method=MERGE_METHODS.entry(method).name,
        params=_usual_params(plan),
        plan=plan,
        digests=digests,
        scale=scale,
        relative_error=math.sqrt(merged.lost / merged.whole) if merged.whole > 0 else 0.0,
        identity_error=merged.identity_error,
        modules={module: merged.modules[module] for module in sorted(merged.modules)},
        wall_s=time.monotonic() - start,
    )


def merge_record(result: MergeResult, *, dtype: str, out: str | None) -> MergeRecord:
    """The result as a record, adapters in canonical order."""
    return MergeRecord(
        method=result.method,
        params=recorded_params(result.params),
        n_adapters=len(result.plan.adapters),
        n_modules=result.plan.n_modules,
        out_rank=result.out_rank,
        relative_error=result.relative_error,
        identity_error=result.identity_error,
        adapter_weights=result.plan.adapter_weights,
        scale=result.scale,
        dtype=dtype,
        adapters=tuple(adapter.name for adapter in result.plan.adapters),
        wall_s=round(result.wall_s, 3),
        peak_bytes=peak_bytes(),
        out=out,
        modules=result.modules,
        notes=result.notes,
    )


def peak_bytes() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Merged:
    """What the batches add up to while a merge runs."""

    def __init__(self, spool: Path | None):
        self.factors = FactorSpool(spool)
        self.modules: dict[str, dict[str, object]] = {}
        self.kinds: dict[str, str] = {}
        self.lost = self.whole = self.identity_error = 0.0

    def add(self, group: MergedGroup) -> None:
        for module, factors in group.factors.items():
            self.factors.add(module, factors)
            self.kinds[module] = group.kind
        self.modules.update(group.modules)
        self.lost, self.whole = self.lost + group.lost, self.whole + group.whole
        self.identity_error = max(self.identity_error, group.identity_error)


def _prepared(plan: MergePlan, method: str) -> MergePlan:
    """Let a method that settles its parameters over all modules look at them first."""
    prepare = cast(Any, MERGE_METHODS.entry(method).facts.get("prepare"))
    if prepare is None:
        return plan
    settled: dict[str, Params] = {}
    for params in {id(group.params): group.params for group in plan.groups}.values():
        groups = [group for group in plan.groups if group.params is params]

        def stacks(groups=groups) -> Iterator[ModuleStack]:
            return (stack_modules(plan.adapters, group) for group in groups)

        found = prepare(stacks, params)
        names = [module for group in groups for module in group.names]
        settled.update(found if isinstance(found, Mapping) else dict.fromkeys(names, found))
    return with_params(plan, settled)


def _usual_params(plan: MergePlan) -> Params:
    counts: dict[int, int] = {}
    for setting in plan.settings.values():
        counts[id(setting.params)] = counts.get(id(setting.params), 0) + 1
    return max((s.params for s in plan.settings.values()), key=lambda params: counts[id(params)])


def _as_adapter(name: str, merged: _Merged, plan: MergePlan) -> Adapter:
    bases = {adapter.base_model: adapter for adapter in plan.adapters if adapter.base_model}
    # Sources that disagree are warned about by name elsewhere; the record keeps the first, by name.
    first = bases[min(bases)] if bases else plan.adapters[0]
    shapes = {
        module: ModuleShape(*merged.factors.ranks[module], cast(Any, merged.kinds[module])) for module in merged.factors
    }
    return Adapter(
        name,
        merged.factors,
        MappingProxyType(shapes),
        base_model=first.base_model,
        base_revision=first.base_revision,
        task_type=first.task_type,
        narrow_leaves=_narrow_everywhere(plan.adapters),
    )


def _narrow_everywhere(adapters: Sequence[Adapter]) -> frozenset[str]:
    """The leaves that no adapter targets wherever they occur; one that does has shown that the base takes that."""
    leaves = [frozenset(map(leaf_of, adapter.shapes)) for adapter in adapters]
    wide = (held - adapter.narrow_leaves for held, adapter in zip(leaves, adapters, strict=True))
    return frozenset().union(*leaves).difference(*wide)
