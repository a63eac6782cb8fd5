"""The sandbox of an evaluation: one for all tasks that run code, tried before any model is loaded.

In: tasks, and the word of `--sandbox`. Out: the tasks with the sandbox in them, its level in their facts, and the line
that is printed. Refused: a back end that does not work here. `unsafe-none` is no sandbox at all; its name says so.
"""

from tclora.evaluation.tasks.task import Task

__all__ = ["SANDBOXES", "in_one_sandbox"]

_NONE = "unsafe-none"
SANDBOXES = ("auto", "bubblewrap", "landlock", _NONE)


def in_one_sandbox(tasks: tuple[Task, ...], word: str) -> tuple[tuple[Task, ...], str | None]:
    """Give every task that runs code the same sandbox.

    Returns:
        the tasks; the sandbox in words, None where no task runs code (it is then not tried either).

    Raises:
        ConfigError: no sandbox works here, or not the one that was asked for.
    """
    if not any(task.runs_code for task in tasks):
        return tasks, None
    from tclora.evaluation.tasks import BuiltTask, in_sandbox
    from tclora.sandbox import Sandbox

    unsafe = word == _NONE
    sandbox = Sandbox(backend="none" if unsafe else word, unsafe_no_sandbox=unsafe)
    placed = (in_sandbox(task, sandbox) if task.runs_code and isinstance(task, BuiltTask) else task for task in tasks)
    return tuple(placed), sandbox.level.line
