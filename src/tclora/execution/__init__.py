"""Executors: where independent jobs run. Here one after another; processes and clusters fit the same protocol."""

from tclora.execution.executor import Executor, LocalExecutor

__all__ = ["Executor", "LocalExecutor"]
