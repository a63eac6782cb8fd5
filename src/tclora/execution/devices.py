"""What this machine offers to workers: cores and GPUs, and the environment that gives each worker its part.

In: how many workers and threads are asked for, None for what fits. Out: the number of workers, and the environment
variables of each. They are set before a worker loads torch, which reads them once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["WorkerPlan", "core_count", "plan_workers", "visible_gpus"]

_THREADS: tuple[str, ...] = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPUS = "CUDA_VISIBLE_DEVICES"
_CORES_EACH = 4
"""A worker on the CPU is given about this many cores: small models stop gaining from more."""


@dataclass(frozen=True)
class WorkerPlan:
    """The environment of each worker; there are as many workers as entries."""

    environments: tuple[Mapping[str, str], ...]


def plan_workers(workers: int | None, threads: int | None, gpus: tuple[str, ...]) -> WorkerPlan:
    """Lay out workers over GPUs, or over groups of cores where there are none.

    Without a number there is one worker for each GPU; without GPUs, one for every four cores, two at least where there
    are two cores. More workers than GPUs share them in turn.
    """
    cores = core_count()
    count = workers or len(gpus) or max(min(2, cores), cores // _CORES_EACH)
    return WorkerPlan(tuple(_environment(index, count, threads, gpus) for index in range(count)))


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """The CUDA devices this process may use, as `CUDA_VISIBLE_DEVICES` would name them; no device is touched."""
    import torch

    named = os.environ.get(_GPUS)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if named is None:
        return tuple(str(index) for index in range(count))
    return tuple(part.strip() for part in named.split(",") if part.strip())[:count]


def _environment(index: int, count: int, threads: int | None, gpus: tuple[str, ...]) -> dict[str, str]:
    environment: dict[str, str] = {}
    if threads is not None:
        environment = dict.fromkeys(_THREADS, str(threads))
    elif "OMP_NUM_THREADS" not in os.environ:
        # Else each worker would start a thread for every core of the machine.
        environment = dict.fromkeys(_THREADS, str(max(1, core_count() // count)))
    if gpus:
        environment[_GPUS] = gpus[index % len(gpus)]
    return environment
