"""A task by its name, or by the path of the user's own YAML file.

In: a name of `EVAL_TASKS` or a path, and how the task is wanted. Out: a `BuiltTask`. Refused: a name that is not
registered (near ones are suggested), a file that is not there.
"""

import os
from pathlib import Path

# Importing a module of loaders registers them.
from tclora.evaluation.tasks import answer_tasks as _answers
from tclora.evaluation.tasks import choice_tasks as _choices
from tclora.evaluation.tasks import code_tasks as _code
from tclora.evaluation.tasks import program_tasks as _programs
from tclora.evaluation.tasks.built import BuiltTask, Request
from tclora.evaluation.tasks.registry import EVAL_TASKS
from tclora.evaluation.tasks.user_tasks import load_user_task

__all__ = ["EVAL_TASKS", "LOADERS", "load_task"]

LOADERS = (_answers, _choices, _code, _programs)
_ENDINGS = (".yaml", ".yml")


def load_task(
    name_or_path: str | Path,
    *,
    data: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    plain: bool = True,
) -> BuiltTask:
    """Read a task's file and render its prompts.

    Args:
        data: folder with `eval/<file>.jsonl.gz`; None: $TCLORA_DATA, $TCLORA_SHARED/data, then the Hub.
        shots: solved examples before each question; None: the task's usual number. Never test items.
        limit: that many items, drawn by the seed, in the order of the file; a larger limit only adds items.
        seed: draws shots and limited items.
        plain: prompts as in lm-eval; False: instructions for the base's own template.

    Raises:
        UnknownNameError: no such task; names near ones.
        ConfigError: the user's YAML is at fault, or shots or limit cannot be had.
        DataError: a file is missing or a row is at fault; names file and line.
        MissingExtraError: a set must come from the Hub and the datasets package is not installed.
    """
    request = Request(data, shots, limit, seed, plain)
    name = os.fspath(name_or_path)
    if name.endswith(_ENDINGS) or isinstance(name_or_path, Path):
        return load_user_task(Path(name).expanduser(), request)
    return EVAL_TASKS[name](request)
