"""The front door of the evaluation: a base, adapters and tasks in, figures with intervals and compared pairs out.

The base is loaded once, and not at all where the output is there and unchanged. The output folder holds `results.json`,
`results.md`, `items/<task>.jsonl` (every answer and its values), `cache/` and, last, the manifest. Killed at any point
and started again it goes on. A changed request needs `overwrite`, which makes the results anew from the answers kept.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tclora.artifacts import MANIFEST_NAME, folder_lock, is_complete, read_json, read_manifest, write_bytes, write_json
from tclora.errors import OutputExistsError
from tclora.evaluation.cache import base_digest
from tclora.evaluation.many import (
    Backend,
    EntrantAnswers,
    JudgedStore,
    LmEvalBackend,
    OwnBackend,
    TaskValues,
    answer_json,
    answer_tasks,
    figures_of,
    judged_name,
    score_task,
)
from tclora.evaluation.tasks.task import Task
from tclora.models import Base, base_files_digest, load_base
from tclora.pipeline.evaluations.request import EvaluateManyRequest, Plan, make_plan, prompts_digest
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.stages.stage import Stage, run_stage
from tclora.records import EntrantRecord, ManyEvalRecord, ManyTaskRecord, from_json, to_json
from tclora.reporting import many_page

__all__ = ["EvaluateManyResult", "evaluate_many", "plan_facts"]

_NAME = "evaluate-many"
_FILES = {"cache", "items", "results.json", "results.md", MANIFEST_NAME, ".lock"}


@dataclass(frozen=True)
class EvaluateManyResult:
    """The record, the folder it lies in if one was asked for, and the time it took."""

    record: ManyEvalRecord
    out: str | None
    wall_s: float


def evaluate_many(request: EvaluateManyRequest, progress: Progress | None = None) -> EvaluateManyResult:
    """Evaluate adapters on one base load.

    Raises:
        TcLoraError: the request is wrong (nothing is written then), the output is taken, or a figure is not finite.
    """
    told, start = progress or Silent(), time.monotonic()
    out = None if request.out is None else Path(request.out).expanduser()
    _check_place(out)
    plan = make_plan(request)
    for note in (*plan.notes, *([plan.sandbox] if plan.sandbox else [])):
        told.note(note)
    inputs = {**plan.inputs, "base": base_files_digest(request.base)}
    with _folder(out) as folder:
        stage = Stage(_NAME, folder, plan.settings, inputs, request.seed, resumable=True)
        _check_output(folder, stage, request.overwrite)
        run_stage(stage, lambda target: _build(request, plan, target, told), told)
        record = from_json(ManyEvalRecord, read_json(folder / "results.json"))
    return EvaluateManyResult(record, request.out, time.monotonic() - start)


def plan_facts(request: EvaluateManyRequest) -> dict[str, object]:
    """What would be done, as plain data; writes nothing and loads no model."""
    _check_place(None if request.out is None else Path(request.out).expanduser())
    plan = make_plan(request)
    return {
        "base": request.base.path,
        "entrants": [entrant.name for entrant in plan.entrants],
        "tasks": {task.name: len(task.items()) for task in plan.tasks},
        "n_questions": len(plan.entrants) * sum(len(task.items()) for task in plan.tasks),
        "pairs": [":".join(pair) for pair in plan.pairs],
        "runs_code": [task.name for task in plan.tasks if task.runs_code],
        "sandbox": (plan.sandbox or "not needed").removeprefix("sandbox: "),
        "out": request.out,
        "notes": list(plan.notes),
    }


@contextmanager
def _folder(out: Path | None):
    """The output folder, locked; or one that is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tclora-evaluate-") as folder:
            yield Path(folder)
    else:
        with folder_lock(out):
            yield out


def _check_place(out: Path | None) -> None:
    """Refuse a place that holds anything but an evaluation, before anything is written there."""
    if out is None or not (out.exists() or out.is_symlink()):
        return
    holds = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    strange = sorted(name for name in holds - _FILES if not name.endswith(".partial"))
    manifest = read_manifest(out) if out.is_dir() else None
    if strange or not out.is_dir() or (manifest is not None and manifest.stage != _NAME):
        raise OutputExistsError(
            "the output exists and is not an evaluation",
            where=out,
            found=", ".join(strange[:3]) or "the results of another command",
            expected="a new folder, or one that `tclora evaluate` wrote",
            do="choose another place",
        )


def _check_output(folder: Path, stage: Stage, overwrite: bool) -> None:
    manifest = read_manifest(folder)
    if manifest is None or is_complete(folder, stage.key) or overwrite:
        return
    what = "its files were changed" if manifest.key == stage.key else "another request, or other adapters"
    raise OutputExistsError(
        "the output holds another evaluation",
        where=folder,
        found=what,
        do="choose another folder, or give --overwrite, which keeps the answers that still apply",
    )


def _build(request: EvaluateManyRequest, plan: Plan, folder: Path, told: Progress) -> None:
    base = load_base(request.base)
    kind = LmEvalBackend if request.backend == "lm-eval" else OwnBackend
    backend: Backend = kind(base, batch_size=request.batch_size, seed=request.seed)
    plan = _with_cut_prompts(plan, backend, base, told)
    answered = answer_tasks(
        base,
        plan.entrants,
        plan.tasks,
        backend,
        cache=folder / "cache",
        on_progress=lambda done, total: told.step("evaluate: tokens", done, total),
    )
    values = [_scored(task, answered, request.workers or _n_cpus(), folder / "cache", told) for task in plan.tasks]
    record = _record(request, plan, base, backend, answered, values)
    for name in ("results.json", "results.md"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "items", ignore_errors=True)
    for task in values:
        _write_items(folder / "items" / f"{_file_name(task.task.name)}.jsonl", task, answered)
    write_bytes(folder / "results.md", many_page(record).encode())
    write_json(folder / "results.json", to_json(record))


def _with_cut_prompts(plan: Plan, backend: Backend, base: Base, told: Progress) -> Plan:
    """The plan with a note for every task whose prompts do not fit; told before the work, which may be long."""
    cut = {task.name: (backend.n_truncated(task), len(task.items())) for task in plan.tasks}
    notes = tuple(
        f"{name}: {n} of {total} prompts are longer than the window of {base.max_length} tokens and lose their "
        "beginning; fewer --shots make them shorter"
        for name, (n, total) in cut.items()
        if n
    )
    for note in notes:
        told.note(note)
    return replace(plan, notes=(*plan.notes, *notes))


def _scored(task: Task, answered: Sequence[EntrantAnswers], workers: int, cache: Path, told: Progress) -> TaskValues:
    kept = JudgedStore(cache / judged_name(task)) if task.runs_code else None
    try:
        return score_task(
            task,
            [own.answers[task.name] for own in answered],
            workers=workers,
            kept=kept,
            on_progress=lambda done, total: told.step(f"score {task.name}", done, total),
        )
    finally:
        if kept is not None:
            kept.close()


def _n_cpus() -> int:
    # A container or a batch system may have lent fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _record(
    request: EvaluateManyRequest,
    plan: Plan,
    base: Base,
    backend: Backend,
    answered: Sequence[EntrantAnswers],
    values: Sequence[TaskValues],
) -> ManyEvalRecord:
    names = [own.entrant.name for own in answered]
    figures = figures_of(values, names, plan.pairs, n_bootstrap=request.n_bootstrap, seed=request.seed)
    return ManyEvalRecord(
        base=base.name,
        base_digest=base_digest(base),
        dtype=str(next(base.model.parameters()).dtype).removeprefix("torch."),
        template=request.template if request.template == "plain" else f"base ({base.template.name})",
        backend=backend.name,
        seed=request.seed,
        n_bootstrap=request.n_bootstrap,
        window=base.max_length,
        entrants=tuple(EntrantRecord(o.entrant.name, o.entrant.source, o.digest, o.rank) for o in answered),
        tasks=tuple(_task_record(task.task, backend) for task in values),
        figures=figures.figures,
        comparisons=figures.comparisons,
        macro=dict(figures.macro),
        macro_tasks=figures.macro_tasks,
        macro_chance=figures.macro_chance,
        notes=plan.notes,
        sandbox=plan.sandbox,
    )


def _task_record(task: Task, backend: Backend) -> ManyTaskRecord:
    return ManyTaskRecord(
        name=task.name,
        n=len(task.items()),
        metrics=tuple(task.metrics),
        lower_is_better=tuple(task.lower_is_better),
        chance=dict(task.chance),
        facts=dict(task.facts),
        first_prompt=backend.first_prompt(task),
        prompts_sha256=prompts_digest(task.items()),
        n_truncated=backend.n_truncated(task),
    )


def _write_items(path: Path, task: TaskValues, answered: Sequence[EntrantAnswers]) -> None:
    lines = []
    for row, item in enumerate(task.items):
        for column, own in enumerate(answered):
            line = {
                "id": item.id,
                "group": item.group,
                "adapter": own.entrant.name,
                "values": {metric: float(found[row, column]) for metric, found in task.values.items()},
                "answer": answer_json(own.answers[task.task.name][row]),
            }
            lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    write_bytes(path, "".join(lines).encode("utf-8", errors="backslashreplace"))


def _file_name(task: str) -> str:
    # Names of tasks are the user's; a file's must not lead out of the folder.
    return re.sub(r"[^\w.-]", "_", task).lstrip(".") or "task"
