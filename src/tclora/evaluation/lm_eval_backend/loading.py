"""lm-eval's tasks by name, built once, so that every adapter gets the very same prompts.

In: names as `lm_eval --tasks` takes them (tasks, groups, tags, patterns with `*`) and folders of the user's own task
files. Out: `LmEvalTask`s, with the documents read and the prompts made. Refused: names that lm-eval does not know, data
that cannot be had (most tasks fetch theirs from the Hub), tasks that run generated code, that need images or sound, or
that ask for several answers to one prompt, and tasks without any figure of single items.

lm-eval's `simple_evaluate` builds its prompts anew in every call, and draws few-shot examples from a generator that
goes on from call to call. Hence the prompts are made here, once, with the seed that `simple_evaluate` starts from.
"""

import contextlib
import difflib
import io
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tclora.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from tclora.evaluation.lm_eval_backend.task import LmEvalTask, wrap_task

__all__ = ["load_lm_eval_tasks", "quiet"]

_FEW_SHOT_SEED = 1234
"""The seed that `lm_eval` draws few-shot examples with unless told otherwise."""


def load_lm_eval_tasks(
    names: Sequence[str],
    *,
    include_path: Sequence[Path] = (),
    n_shots: int | None = None,
    limit: int | None = None,
    seed: int = _FEW_SHOT_SEED,
) -> tuple[LmEvalTask, ...]:
    """Load tasks as `lm_eval` would, a group or a tag giving each of its tasks.

    Args:
        names: task, group or tag names, patterns of them, or task files (`.yaml`).
        include_path: folders searched for task files; theirs go before lm-eval's own of the same name. Where they hold
            every name, lm-eval's own thousands of files are not read.
        n_shots: few-shot examples in each prompt; None leaves it to the task.
        limit: only the first so many documents of each task, as `--limit` of `lm_eval`.
        seed: draws the few-shot examples.

    Raises:
        MissingExtraError: lm-eval 0.4.13 or newer is not installed.
        UnknownNameError: a name is unknown; suggests near ones.
        DataError: a task's documents cannot be read; offline, most cannot.
        ConfigError: a folder does not exist, or a task cannot be evaluated item by item; see the module's text.
    """
    manager_class = _task_manager()
    _check_request(names, include_path, n_shots, limit)
    manager, known = _manager_with(manager_class, names, [str(folder) for folder in include_path])
    built: dict[str, LmEvalTask] = {}
    for spec in known:
        for name, task in _load(manager, spec).items():
            _check_kind(name, task)
            with quiet():
                _set_shots(name, task, n_shots)
                task.set_fewshot_seed(seed=seed)
                built.setdefault(name, wrap_task(name, task, limit=limit, seed=seed))
    return tuple(built.values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's progress bars and notices, and without a trace in Python's generator.

    It draws a random name whenever it looks up the name of a task, used or not.
    """
    logger = logging.getLogger("lm_eval")
    level, state = logger.level, random.getstate()
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        random.setstate(state)


def _task_manager() -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        found = "lm-eval is not installed"
    else:
        if hasattr(TaskManager, "load"):
            return TaskManager
        found = "an lm-eval older than 0.4.13"
    raise MissingExtraError(
        "tasks of lm-eval need lm-eval",
        where="--backend lm-eval",
        found=found,
        expected="the 'eval' extra, lm-eval 0.4.13 or newer",
        do="pip install 'tclora[eval]'",
    )


def _check_request(names: Sequence[str], folders: Sequence[Path], n_shots: int | None, limit: int | None) -> None:
    absent = [folder for folder in folders if not Path(folder).is_dir()]
    if absent:
        raise ConfigError(
            "a folder of task files does not exist", where="--include-path", found=absent[0], do="correct the path"
        )
    if not names:
        raise ConfigError("no task is named", where="--tasks", expected="names that lm-eval knows", do="name one")
    if (n_shots is not None and n_shots < 0) or (limit is not None and limit < 1):
        raise ConfigError(
            "the number of shots or of items is out of range",
            where="lm-eval tasks",
            found=f"shots {n_shots}, limit {limit}",
            expected="shots 0 or more, a limit of 1 or more",
            do="correct it",
        )


def _manager_with(manager_class: Any, names: Sequence[str], folders: list[str]) -> tuple[Any, list[str]]:
    # Indexing lm-eval's own files takes seconds, so the user's folders are tried alone first.
    for with_defaults in (False, True) if folders else (True,):
        with quiet():
            manager = manager_class(include_path=folders or None, include_defaults=with_defaults)
        found = {name: _matches(manager, name) for name in names}
        if all(found.values()):
            break
    unknown = next((name for name, matches in found.items() if not matches), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, manager.all_tasks, n=5, cutoff=0.6)
        raise UnknownNameError(
            "lm-eval knows no such task",
            where="--tasks",
            found=unknown,
            expected=f"one of {', '.join(near)}" if near else f"one of its {len(manager.all_tasks)} names",
            do="see `lm_eval ls tasks`, or give the folder of your task file with --include-path",
        )
    return manager, [spec for matches in found.values() for spec in matches]


def _matches(manager: Any, name: str) -> list[str]:
    if name.endswith((".yaml", ".yml")):
        return [name] if Path(name).is_file() else []
    return [name] if name in manager.all_tasks else list(manager.match_tasks([name])) if "*" in name else []


def _load(manager: Any, spec: str) -> dict[str, Any]:
    try:
        with quiet():
            return manager.load([spec])["tasks"]
    except Exception as error:  # datasets, huggingface_hub, yaml, jinja2 and a task's own code raise theirs
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(
            "lm-eval cannot load the task",
            where=spec,
            found=f"{type(error).__name__}: {first_line}",
            expected="a task whose documents can be read; lm-eval's own fetch theirs from the Hub",
            do="go online, or give a task file over local documents with --include-path",
        ) from error


def _set_shots(name: str, task: Any, n_shots: int | None) -> None:
    fixed = task.get_config("num_fewshot")
    if n_shots is None or n_shots == fixed:
        task.set_config(key="num_fewshot", value=fixed or 0)
    elif fixed == 0:
        raise ConfigError(
            "the task takes no few-shot examples",
            where=name,
            found=f"{n_shots} shots asked for",
            expected="0, which its task file sets",
            do="leave the number of shots to the task, or evaluate it apart",
        )
    else:
        task.set_config(key="num_fewshot", value=n_shots)


def _check_kind(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            "lm-eval would run the generated code of this task without a sandbox",
            where=name,
            found="a task marked unsafe_code",
            do="use tclora's own humaneval, mbpp, gsm8k or gsm_hard, whose programs run in the sandbox",
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError("the task needs images or sound", where=name, found="a multimodal task", do="leave it out")
    if (task.get_config("repeats") or 1) != 1:
        raise ConfigError(
            "the task asks for several answers to one prompt",
            where=name,
            found=f"repeats: {task.get_config('repeats')}",
            expected="one answer to each prompt",
            do="leave it out, or set repeats to 1 in a copy of its task file",
        )
