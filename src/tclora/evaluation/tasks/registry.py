"""The registry of benchmark tasks, which loaders add themselves to.

A loader takes a `Request` and gives a `BuiltTask`. Facts: `file` (its stem under `eval/`), `n` (items of the official
split), `metrics` (the main one first), `chance` (of the main metric, where there is one), `runs_code`.
"""

from collections.abc import Callable

from tclora.evaluation.tasks.built import BuiltTask, Request
from tclora.registry import Registry

__all__ = ["EVAL_TASKS", "Loader"]

Loader = Callable[[Request], BuiltTask]

EVAL_TASKS: Registry[Loader] = Registry("task")
