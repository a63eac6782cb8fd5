"""What `tclora evaluate MODEL` was asked for, made ready before any model is loaded.

In: an `EvaluateManyRequest`. Out: `Plan`: entrants, tasks with their items, pairs, and the digests of all that decides
the result. Refused: unknown tasks, tasks that run generated code without leave, two tasks of one name, tasks without
items, adapters that do not fit the base's headers, settings outside their range.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tclora.adapters import Adapter, AdapterSource, read_adapter
from tclora.artifacts import digest_of
from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, DataError
from tclora.evaluation.many import Entrant
from tclora.evaluation.tasks.task import Item, Task
from tclora.pipeline.entrants import chosen_pairs, expand_entrants
from tclora.pipeline.evaluations.sandbox import SANDBOXES, in_one_sandbox
from tclora.pipeline.merges.base_check import check_base

__all__ = ["EvaluateManyRequest", "Plan", "make_plan", "prompts_digest"]


_OUTSIDE = "a setting is outside its range"


@dataclass(frozen=True)
class EvaluateManyRequest:
    """One evaluation: a base, adapters, tasks, and how they are asked."""

    base: BaseModelConfig
    adapters: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    shots: int | None = None
    """Of every task; None: the task's own number."""
    shots_of: tuple[tuple[str, int], ...] = ()
    """Pairs of a task, as it stands in `tasks`, and its own number, which goes before `shots`."""
    batch_size: int = 16
    template: str = "plain"
    """`plain`: prompts as they are, as in lm-eval; `base`: instructions in the base's own template."""
    out: str | None = None
    seed: int = 0
    overwrite: bool = False
    allow_code_execution: bool = False
    sandbox: str = "auto"
    """`auto`, `bubblewrap`, `landlock`, or `unsafe-none`: programs run with the user's own rights."""
    workers: int | None = None
    """Programs run at once; None: one for each CPU."""
    data: str | None = None
    pairs: tuple[str, ...] = ()
    backend: str = "tclora"
    include_path: tuple[str, ...] = ()
    """lm-eval: folders of task files."""
    with_base: bool = True
    n_bootstrap: int = 10_000


@dataclass(frozen=True)
class Plan:
    """What will be done; `settings` and `inputs` decide the result to the byte."""

    entrants: tuple[Entrant, ...]
    tasks: tuple[Task, ...]
    pairs: tuple[tuple[str, str], ...]
    settings: dict[str, object]
    inputs: dict[str, str]
    notes: tuple[str, ...]
    sandbox: str | None = None
    """The sandbox in words, where a task runs code."""


def make_plan(request: EvaluateManyRequest) -> Plan:
    """Read everything but the model, and refuse what cannot be done.

    Raises:
        TcLoraError: see above.
    """
    _check_settings(request)
    entrants = expand_entrants(request.adapters, with_base=request.with_base)
    pairs = chosen_pairs(entrants, request.pairs)
    adapters = {one.name: read_adapter(one.source) for one in entrants if one.source is not None}
    notes = check_base(list(adapters.values()), request.base.path)
    tasks, sandbox = in_one_sandbox(_load_tasks(request), request.sandbox)
    settings: dict[str, object] = {
        "base": request.base.model_dump(mode="json", include={"dtype", "template", "max_length", "revision"}),
        "template": request.template,
        "backend": request.backend,
        "n_bootstrap": request.n_bootstrap,
        "entrants": [asdict(entrant) for entrant in entrants],
        "pairs": [list(pair) for pair in pairs],
        "tasks": [{"name": task.name, "facts": dict(task.facts), "metrics": list(task.metrics)} for task in tasks],
    }
    inputs = {f"adapter {name}": _adapter_key(adapter) for name, adapter in adapters.items()}
    inputs |= {f"task {task.name}": prompts_digest(task.items()) for task in tasks}
    return Plan(tuple(entrants), tasks, pairs, settings, inputs, tuple(notes), sandbox)


def prompts_digest(items: Sequence[Item]) -> str:
    """The digest of what is asked in all items, in order, ids included."""
    return digest_of([[item.id, _plain(item)] for item in items])


def _plain(item: Item) -> object:
    return [asdict(one) for one in item.ask] if isinstance(item.ask, tuple) else asdict(item.ask)


def _adapter_key(adapter: Adapter) -> str:
    source = adapter.source
    assert isinstance(source, AdapterSource)  # it was read from a folder
    return digest_of([source.config_sha256, source.weights_sha256])


def _check_settings(request: EvaluateManyRequest) -> None:
    if not request.tasks:
        raise ConfigError("no task is named", where="--tasks", do="name tasks; `tclora tasks` lists them")
    # A file says its task's name when it is loaded; the others are known by now.
    files = any(word.endswith((".yaml", ".yml")) for word in request.tasks)
    strange = [] if files else sorted({name for name, _ in request.shots_of} - set(request.tasks))
    shots_fit = not request.shots_of or request.backend == "tclora"
    facts = [
        (not strange, "--shots", ", ".join(strange), f"one of the tasks: {', '.join(request.tasks)}"),
        (shots_fit, "--shots", "a number for one task", "one number for all with lm-eval"),
        (request.seed >= 0, "--seed", request.seed, "0 or more"),
        (request.batch_size >= 1, "--batch-size", request.batch_size, "1 or more"),
        (request.n_bootstrap >= 100, "--n-bootstrap", request.n_bootstrap, "100 or more"),
        (request.template in ("plain", "base"), "--template", request.template, "plain or base"),
        (request.backend in ("tclora", "lm-eval"), "--backend", request.backend, "tclora or lm-eval"),
        (request.sandbox in SANDBOXES, "--sandbox", request.sandbox, ", ".join(SANDBOXES)),
        (request.workers is None or request.workers >= 1, "--workers", request.workers, "1 or more"),
        (not request.include_path or request.backend == "lm-eval", "--include-path", "given", "--backend lm-eval"),
        (request.data is None or request.backend == "tclora", "--data", "given", "--include-path with lm-eval"),
    ]
    for holds, where, found, expected in facts:
        if not holds:
            raise ConfigError(_OUTSIDE, where=where, found=found, expected=expected)


def _load_tasks(request: EvaluateManyRequest) -> tuple[Task, ...]:
    tasks = _lm_eval_tasks(request) if request.backend == "lm-eval" else _own_tasks(request)
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("two tasks have one name", where="--tasks", found=twice[0], do="name each once")
    for task in tasks:
        _check_task(task, request)
    return tasks


def _own_tasks(request: EvaluateManyRequest) -> tuple[Task, ...]:
    own = dict(request.shots_of)
    tasks = []
    for word in request.tasks:
        task = _own_task(request, word, own.get(word, request.shots))
        # Only the loaded task knows its name, which a user may have given in place of the file's.
        again = word not in own and task.name in own
        tasks.append(_own_task(request, word, own[task.name]) if again else task)
    strange = sorted(set(own) - set(request.tasks) - {task.name for task in tasks})
    if strange:
        known = ", ".join(task.name for task in tasks)
        raise ConfigError(_OUTSIDE, where="--shots", found=", ".join(strange), expected=f"one of the tasks: {known}")
    return tuple(tasks)


def _own_task(request: EvaluateManyRequest, word: str, shots: int | None) -> Task:
    from tclora.evaluation.tasks import load_task

    return load_task(
        word,
        data=None if request.data is None else _data_folder(request.data),
        shots=shots,
        limit=request.limit,
        seed=request.seed,
        plain=request.template == "plain",
    )


def _lm_eval_tasks(request: EvaluateManyRequest) -> tuple[Task, ...]:
    from tclora.evaluation.lm_eval_backend import load_lm_eval_tasks

    if request.template != "plain":
        raise ConfigError(
            "lm-eval writes its own prompts", where="--template", found=request.template, expected="plain"
        )
    folders = [Path(folder).expanduser() for folder in request.include_path]
    return load_lm_eval_tasks(request.tasks, include_path=folders, n_shots=request.shots, limit=request.limit)


def _data_folder(word: str) -> Path:
    folder = Path(word).expanduser()
    if not folder.is_dir():
        raise ConfigError("there is no such folder of benchmark files", where="--data", found=word, do="check the path")
    return folder


def _check_task(task: Task, request: EvaluateManyRequest) -> None:
    if task.runs_code and not request.allow_code_execution:
        raise ConfigError(
            "the task runs code that the model writes",
            where=task.name,
            found="no --allow-code-execution",
            expected="your leave; programs run in the sandbox, see docs/sandbox.md",
            do="give --allow-code-execution, or leave the task out",
        )
    ids = [item.id for item in task.items()]
    if not ids or len(set(ids)) < len(ids):
        found = "no items" if not ids else f"two items with the id {max(ids, key=ids.count)}"
        raise DataError("a task cannot be evaluated", where=task.name, found=found, expected="items, each with its id")
