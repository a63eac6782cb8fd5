"""Executors: where independent jobs run: in this process, in worker processes, or on a Ray cluster."""

from tclora.execution.attempts import Retries
from tclora.execution.balance import balanced_groups
from tclora.execution.build import make_executor
from tclora.execution.devices import WorkerPlan, plan_workers, visible_gpus
from tclora.execution.executor import Executor, LocalExecutor
from tclora.execution.processes import ProcessExecutor
from tclora.execution.ray_cluster import Request
from tclora.execution.ray_executor import RayExecutor
from tclora.execution.watch import Watcher, report

__all__ = [
    "Executor",
    "LocalExecutor",
    "ProcessExecutor",
    "RayExecutor",
    "Request",
    "Retries",
    "Watcher",
    "WorkerPlan",
    "balanced_groups",
    "make_executor",
    "plan_workers",
    "report",
    "visible_gpus",
]
