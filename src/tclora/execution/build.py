"""From settings to an executor.

In: the `execution` section of a run. Out: the executor it asks for, which starts nothing before its first job.
"""

from collections.abc import Sequence
from pathlib import Path

from tclora.config import ExecutionConfig
from tclora.execution.attempts import Retries
from tclora.execution.devices import plan_workers, visible_gpus
from tclora.execution.executor import Executor, LocalExecutor
from tclora.execution.processes import ProcessExecutor
from tclora.execution.ray_cluster import Request
from tclora.execution.ray_executor import RayExecutor

__all__ = ["make_executor"]


def make_executor(config: ExecutionConfig, folder: Path, *, reads: Sequence[Path] = (), gpus: bool = True) -> Executor:
    """The executor that the settings ask for.

    Args:
        folder: the run's folder; a Ray cluster must share it.
        reads: folders outside of it that jobs read, such as the base model's.
        gpus: whether jobs may use GPUs; with False (a base kept on the CPU) workers share cores only.
    """
    retries = Retries(config.retries)
    if config.executor == "processes":
        return ProcessExecutor(
            plan_workers(config.workers, config.threads_per_worker, visible_gpus() if gpus else ()), retries
        )
    if config.executor == "ray":
        request = Request(
            config.address, folder, tuple(reads), workers=config.workers, threads=config.threads_per_worker, gpus=gpus
        )
        return RayExecutor(request, retries)
    return LocalExecutor(retries)
