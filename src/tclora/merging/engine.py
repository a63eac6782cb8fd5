"""The work of a merge, batch by batch: read, solve, hand over; several batches at a time, memory bounded by those.

In: a plan. Out: for each batch, in order, the merged factors in float32 and their figures. A batch is computed by one
thread with one thread of linear algebra, so the bytes do not depend on the number of workers or on the machine's load.
On CUDA one batch is computed while others are read.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.adapters import LoraFactors, all_finite, map_in_threads
from tclora.algebra import ModuleStack
from tclora.errors import ConfigError, MissingExtraError, NumericalError
from tclora.merging.identity import identity_error
from tclora.merging.method import MergedStack, MergeFunction
from tclora.merging.plan import MergePlan, ModuleGroup, Room, stack_modules

__all__ = ["MergedGroup", "merge_groups", "resolve_device", "resolve_workers"]

_MOST_WORKERS = 8


@dataclass(frozen=True)
class MergedGroup:
    """One batch done: factors and figures by module, and what the batch adds to the figures of the whole merge."""

    factors: dict[str, LoraFactors]
    modules: dict[str, dict[str, object]]
    kind: str
    lost: float
    whole: float
    identity_error: float


def merge_groups(
    plan: MergePlan, function: MergeFunction, *, device: torch.device, workers: int
) -> Iterator[MergedGroup]:
    """Merge the batches of a plan, in order; at most `workers + 1` batches are held at any time."""
    lock = threading.Lock() if device.type == "cuda" else None
    rooms = threading.local()

    def work(job: tuple[int, ModuleGroup]) -> MergedGroup:
        turn, group = job
        if lock is None:
            rooms.own = rooms.__dict__.get("own") or Room()
            return _merge_group(group, plan, function, stack_modules(plan.adapters, group, rooms.own), turn)
        stack = stack_modules(plan.adapters, group)
        with lock:
            on_device = replace(stack, out_stack=stack.out_stack.to(device), in_stack=stack.in_stack.to(device))
            return _merge_group(group, plan, function, on_device, turn)

    return map_in_threads(work, enumerate(plan.groups), workers)


def resolve_device(device: str) -> torch.device:
    """`auto` takes CUDA where it is; naming `cuda` where it is not is refused."""
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError("there is no such device", found=device, expected="auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingExtraError("CUDA was asked for and is not available", do="use --device auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_workers(workers: int | None, n_groups: int) -> int:
    """How many batches are worked on at a time: as asked, or as many as there are cores or `OMP_NUM_THREADS` allows.

    Raises:
        ConfigError: `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise ConfigError("a merge needs a worker", found=workers, expected=">= 1")
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(allowed) if allowed.isdigit() and int(allowed) else len(os.sched_getaffinity(0))
    return max(1, min(workers or min(cores, _MOST_WORKERS), n_groups))


def _merge_group(
    group: ModuleGroup, plan: MergePlan, function: MergeFunction, stack: ModuleStack, turn: int
) -> MergedGroup:
    settings = [plan.settings[name] for name in group.names]
    device = stack.out_stack.device
    weights = torch.tensor([s.adapter_weights for s in settings], dtype=torch.float64, device=device)
    params = settings[0].params
    result = function(stack, params, weights)
    lora_b, lora_a = _scaled(result, torch.tensor([s.scale for s in settings], dtype=torch.float64, device=device))
    _refuse_overflow(group, lora_b, lora_a)
    errors = result.relative_error.tolist()
    return MergedGroup(
        factors={
            name: LoraFactors(lora_a=_own(lora_a[j], stack), lora_b=_own(lora_b[j], stack))
            for j, name in enumerate(group.names)
        },
        modules={
            name: {"relative_error": errors[j], "rank": lora_a.shape[1], **result.diagnostics[j]}
            for j, name in enumerate(group.names)
        },
        kind=group.kind,
        lost=float((result.relative_error * result.size).square().sum()),
        whole=float(result.size.square().sum()),
        identity_error=identity_error(stack, function, params, turn),
    )


def _own(factor: Tensor, stack: ModuleStack) -> Tensor:
    """The factor in rows, and in memory that the next batch does not use."""
    rows = factor.contiguous()
    taken = {side.untyped_storage().data_ptr() for side in (stack.out_stack, stack.in_stack)}
    return rows.clone() if rows.untyped_storage().data_ptr() in taken else rows


def _refuse_overflow(group: ModuleGroup, lora_b: Tensor, lora_a: Tensor) -> None:
    for j, name in enumerate(group.names):
        if not (all_finite(lora_b[j]) and all_finite(lora_a[j])):
            raise NumericalError(
                "the merged update does not fit float32",
                where=name,
                found="values that are not finite",
                do="lower the scale or the weights, or leave out the adapter that is out of proportion",
            )


def _scaled(result: MergedStack, scale: Tensor) -> tuple[Tensor, Tensor]:
    if bool((scale == 1).all()):
        return result.delta.lora_b.float().cpu(), result.delta.lora_a.float().cpu()
    # The scale is split evenly, like every other factor, so that half precision loses least.
    root = scale.abs().sqrt()[:, None, None]
    lora_b = (result.delta.lora_b * (root * scale.sign()[:, None, None])).float().cpu()
    return lora_b, (result.delta.lora_a * root).float().cpu()
