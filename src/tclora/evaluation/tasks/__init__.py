"""Benchmark tasks and the user's own: what is asked of the model, and how its answers are scored."""

from tclora.evaluation.tasks.built import BuiltTask, in_sandbox
from tclora.evaluation.tasks.loading import EVAL_TASKS, load_task
from tclora.evaluation.tasks.task import (
    Answer,
    Ask,
    Continuation,
    Generation,
    Item,
    Likelihoods,
    Prompt,
    Task,
)

__all__ = [
    "EVAL_TASKS",
    "Answer",
    "Ask",
    "BuiltTask",
    "Continuation",
    "Generation",
    "Item",
    "Likelihoods",
    "Prompt",
    "Task",
    "in_sandbox",
    "load_task",
]
