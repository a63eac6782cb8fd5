"""The merge itself: batch by batch through a method, to one adapter, with every figure recorded.

In: adapters of one base model. Out: a `MergeResult` with an ordinary adapter in float32. Adapters may differ in rank,
scaling, targets and dtype; a module that an adapter lacks is a zero delta. Refused: modules of one name and different
shapes, values that are not finite, a method that does not return one adapter at weight 1.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from tclora.adapters import Adapter, LoraFactors, make_adapter
from tclora.algebra import ModuleStack
from tclora.errors import ConfigError, MissingExtraError
from tclora.merging.identity import identity_error
from tclora.merging.method import MERGE_METHODS, MergedStack, MergeFunction, Params, default_weight, parse_params
from tclora.merging.plan import MergePlan, ModuleGroup, plan_merge, stack_modules
from tclora.merging.weights import resolve_weights
from tclora.records import MergeRecord

__all__ = ["MergeResult", "merge_adapters", "merge_record"]


@dataclass(frozen=True)
class MergeResult:
    """One merged adapter and what is known of it.

    `relative_error` is that of the method's model over all modules; `identity_error` the largest distance found by the
    identity check; `modules` the figures of each module; `plan` the adapters in canonical order with their digests.
    """

    adapter: Adapter
    method: str
    params: Params
    plan: MergePlan
    scale: float
    relative_error: float
    identity_error: float
    modules: dict[str, dict[str, object]]
    wall_s: float

    @property
    def out_rank(self) -> int:
        """The largest rank over the modules."""
        return max(shape.r for shape in self.adapter.shapes.values())


def merge_adapters(  # noqa: PLR0913 - the one call a library user makes; all but the data is keyword-only
    adapters: Sequence[Adapter],
    method: str = "tc_lora",
    *,
    params: Params | Mapping[str, object] | None = None,
    adapter_weights: Sequence[float] | None = None,
    scale: float = 1.0,
    device: str = "cpu",
    name: str = "merged",
    on_progress: Callable[[int, int], None] | None = None,
) -> MergeResult:
    """Merge adapters of one base model into one.

    Args:
        params: the method's parameter class, or plain values for it; None takes its defaults.
        adapter_weights: one per adapter, used as given; None takes the method's own: `1 / n` each for most.
        scale: multiplies the merged delta.
        on_progress: called with modules done and modules in all.

    Raises:
        ConfigError: weights, scale or parameters are out of range.
        AdapterError, AdapterMismatchError: an adapter is damaged, or two do not belong together.
        NumericalError: the identity check failed.
    """
    start = time.monotonic()
    if not math.isfinite(scale):
        raise ConfigError("the scale is not a finite number", found=scale)
    settings = params if params is not None and not isinstance(params, Mapping) else parse_params(method, params or {})
    if adapter_weights is None:
        adapter_weights = [default_weight(method, len(adapters))] * len(adapters)
    plan = plan_merge(adapters, resolve_weights(len(adapters), adapter_weights))
    merged = _Merged()
    function = MERGE_METHODS[method]
    for turn, group in enumerate(plan.groups):
        _merge_group(group, plan, function, settings, (scale, turn, resolve_device(device)), merged)
        if on_progress:
            on_progress(len(merged.modules), plan.n_modules)
    return MergeResult(
        adapter=_as_adapter(name, merged, plan),
        method=MERGE_METHODS.entry(method).name,
        params=settings,
        plan=plan,
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
        params=asdict(cast(Any, result.params)),
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
        notes=result.plan.notes,
    )


def peak_bytes() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resolve_device(device: str) -> torch.device:
    """`auto` takes CUDA where it is; naming `cuda` where it is not is refused."""
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError("there is no such device", found=device, expected="auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingExtraError("CUDA was asked for and is not available", do="use --device auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


class _Merged:
    """What the batches add up to while a merge runs."""

    def __init__(self):
        self.factors: dict[str, LoraFactors] = {}
        self.modules: dict[str, dict[str, object]] = {}
        self.kinds: dict[str, str] = {}
        self.lost = self.whole = self.identity_error = 0.0


def _merge_group(
    group: ModuleGroup,
    plan: MergePlan,
    function: MergeFunction,
    params: Params,
    context: tuple[float, int, torch.device],
    merged: _Merged,
) -> None:
    scale, turn, device = context
    stack = stack_modules(plan.adapters, group)
    stack = replace(stack, out_stack=stack.out_stack.to(device), in_stack=stack.in_stack.to(device))
    weights = torch.tensor(plan.adapter_weights, dtype=torch.float64, device=device).expand(len(group.names), -1)
    result = function(stack, params, weights)
    merged.identity_error = max(merged.identity_error, identity_error(stack, function, params, turn))
    merged.lost += float((result.relative_error * result.size).square().sum())
    merged.whole += float(result.size.square().sum())
    _store(group, stack, result, scale, merged)


def _store(group: ModuleGroup, stack: ModuleStack, result: MergedStack, scale: float, merged: _Merged) -> None:
    # The scale is split evenly, like every other factor, so that half precision loses least.
    root = math.sqrt(abs(scale))
    lora_b = (result.delta.lora_b * math.copysign(root, scale)).float().cpu()
    lora_a = (result.delta.lora_a * root).float().cpu()
    errors = result.relative_error.tolist()
    for j, name in enumerate(group.names):
        merged.factors[name] = LoraFactors(lora_a=lora_a[j].contiguous(), lora_b=lora_b[j].contiguous())
        merged.modules[name] = {"relative_error": errors[j], "rank": lora_a.shape[1], **result.diagnostics[j]}
        merged.kinds[name] = group.kind


def _as_adapter(name: str, merged: _Merged, plan: MergePlan) -> Adapter:
    bases = {adapter.base_model: adapter for adapter in plan.adapters if adapter.base_model}
    # Sources that disagree are warned about by name elsewhere; the record keeps the first, by name.
    first = bases[min(bases)] if bases else plan.adapters[0]
    return make_adapter(
        name,
        {module: merged.factors[module] for module in sorted(merged.factors)},
        embeddings=[module for module, kind in merged.kinds.items() if kind == "embedding"],
        base_model=first.base_model,
        base_revision=first.base_revision,
        task_type=first.task_type,
    )
