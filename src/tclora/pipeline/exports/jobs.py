"""A run's clusters as jobs for another trainer: axolotl, LLaMA-Factory or unsloth.

In: a run's config and a trainer's name. The run is brought up to its clusters. Out: a folder with a data file and a
ready config for each cluster, `run_all.sh`, a README, and `export.json`, by which `tclora library import` finds the
finished adapters. It appears whole or not at all. Refused: settings that the trainer has no key for, an output that is
there, and replacing an export that already holds trained adapters.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tclora.artifacts import digest_of, is_free, refuse_taken, sha256_file, staged_folder, write_json
from tclora.config import RunConfig
from tclora.data import Example, read_examples
from tclora.errors import OutputExistsError, UnknownNameError
from tclora.models import Base
from tclora.models.skeleton import load_skeleton
from tclora.pipeline.exports.axolotl import axolotl_command, axolotl_files, axolotl_row
from tclora.pipeline.exports.llama_factory import llama_factory_command, llama_factory_files, llama_factory_row
from tclora.pipeline.exports.plan import ExportPlan, JobFacts, make_plan, refuse_own_settings
from tclora.pipeline.exports.readme import export_readme
from tclora.pipeline.exports.record import EXPORT_FORMAT, EXPORT_NAME, ExportRecord, read_export
from tclora.pipeline.exports.rows import Rendered, RowCounts, add_counts, needs_chat, render_all
from tclora.pipeline.exports.unsloth import unsloth_command, unsloth_files, unsloth_row
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.cluster import read_cluster_record

__all__ = ["TRAINERS", "ExportRequest", "check_request", "export_jobs"]


@dataclass(frozen=True)
class _Trainer:
    """How one trainer wants its files."""

    row: Callable[[Example, Rendered, str, str], Mapping[str, Any]]
    files: Callable[[ExportPlan], Mapping[str, str]]
    command: Callable[[str], str]
    install: str


TRAINERS: Mapping[str, _Trainer] = {
    "axolotl": _Trainer(axolotl_row, axolotl_files, axolotl_command, "pip install axolotl"),
    "llama-factory": _Trainer(
        llama_factory_row, llama_factory_files, llama_factory_command, "pip install llamafactory"
    ),
    "unsloth": _Trainer(unsloth_row, unsloth_files, unsloth_command, "pip install unsloth"),
}


@dataclass(frozen=True)
class ExportRequest:
    """What is wanted, for whom, and where."""

    trainer: str
    out: str
    prompts: str = "rendered"
    template: str | None = None
    overwrite: bool = False


def export_jobs(config: RunConfig, request: ExportRequest, progress: Progress | None = None) -> ExportRecord:
    """Bring the run up to its clusters and write the jobs.

    Raises:
        TcLoraError: the request or a setting is wrong, or the output is there; nothing is written then.
    """
    told = progress or Silent()
    check_request(config, request)
    run_pipeline(config, until="cluster", progress=told)
    run = RunFolder(Path(config.output).expanduser())
    base = load_skeleton(config.base)
    if request.prompts == "messages":
        needs_chat(base)
    told.begin("export")
    start = time.monotonic()
    plan = make_plan(config, base, _jobs(run), prompts=request.prompts, template=request.template)
    files = TRAINERS[request.trainer].files(plan)
    out = Path(request.out).expanduser()
    with staged_folder(out, overwrite=request.overwrite) as staging:
        counts, digests = _write_rows(staging, run, plan, request.trainer, base, told)
        for name, text in files.items():
            _write(staging / name, text)
        record = _record(run, plan, request, base, counts, digests)
        trainer = TRAINERS[request.trainer]
        _write(staging / "run_all.sh", _run_all(plan, trainer.command))
        (staging / "run_all.sh").chmod(0o755)
        _write(staging / "README.md", export_readme(record, trainer.command, trainer.install))
        write_json(staging / EXPORT_NAME, asdict(record))
    for note in record.notes:
        told.note(note)
    told.end("export", wall_s=round(time.monotonic() - start, 3), skipped=False)
    return record


def check_request(config: RunConfig, request: ExportRequest) -> None:
    """Find what is wrong with a request before any work.

    Raises:
        TcLoraError: an unknown trainer or form of prompts, a setting that cannot be handed over, or a taken output.
    """
    for value, known, where in (
        (request.trainer, tuple(TRAINERS), "--for"),
        (request.prompts, ("rendered", "messages"), "--prompts"),
    ):
        if value not in known:
            raise UnknownNameError(f"'{value}' is not known", where=where, expected=", ".join(known))
    refuse_own_settings(config)
    _refuse_taken(Path(request.out).expanduser(), request.overwrite)


def _refuse_taken(out: Path, overwrite: bool) -> None:
    refuse_taken(out, overwrite=overwrite)
    if is_free(out):
        return
    if read_export(out) is None:
        raise OutputExistsError(
            "the output exists and is no export, so it is not replaced", where=out, do="choose another place"
        )
    trained = sorted(path.parent.name for path in (out / "adapters").glob("*/adapter_model.safetensors"))
    if trained:
        raise OutputExistsError(
            "the export holds trained adapters, so it is not replaced",
            where=out,
            found=", ".join(trained[:5]),
            do="import or move them first, or choose another place",
        )


def _jobs(run: RunFolder) -> tuple[JobFacts, ...]:
    clusters = read_cluster_record(run).clusters
    return tuple(JobFacts(cluster_name(c.index), c.index, c.n_train, c.n_dev) for c in clusters)


def _write_rows(
    staging: Path, run: RunFolder, plan: ExportPlan, trainer: str, base: Base, told: Progress
) -> tuple[RowCounts, dict[str, str]]:
    counts, digests = RowCounts(), {}
    for done, job in enumerate(plan.jobs, start=1):
        for part in ("train", "dev") if job.n_dev else ("train",):
            source = run.cluster / f"{job.name}.{part}.jsonl"
            rows, found = render_all(base, read_examples([str(source)]))
            counts = add_counts(counts, found)
            target = staging / "data" / f"{job.name}.{part}.jsonl"
            make = TRAINERS[trainer].row
            lines = (make(example, row, plan.prompts, str(source)) for example, row in rows)
            _write(target, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        digests[job.name] = sha256_file(staging / "data" / f"{job.name}.train.jsonl")
        told.step("export", done, len(plan.jobs))
    return counts, digests


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _record(
    run: RunFolder, plan: ExportPlan, request: ExportRequest, base: Base, counts: RowCounts, digests: dict[str, str]
) -> ExportRecord:
    adapters = tuple(
        {"name": job.name, "cluster": job.cluster, "folder": job.folder}
        | {"n_train": job.n_train, "n_dev": job.n_dev, "sha256": digests[job.name]}
        for job in plan.jobs
    )
    return ExportRecord(
        format=EXPORT_FORMAT,
        trainer=request.trainer,
        run=str(run.root.resolve()),
        clusters_digest=digest_of(sha256_file(run.cluster / "centroids.npy")),
        base=plan.source,
        template=base.template.name,
        prompts=plan.prompts,
        adapters=adapters,
        counts=asdict(counts),
        notes=_notes(plan, base, counts, request.trainer),
    )


def _notes(plan: ExportPlan, base: Base, counts: RowCounts, trainer: str) -> tuple[str, ...]:
    cuts = {
        "axolotl": "axolotl drops them",
        "llama-factory": "LLaMA-Factory cuts them on the right",
        "unsloth": "the script cuts their prompts on the left, as `tclora train` does",
    }
    notes = []
    if counts.n_long:
        notes.append(f"{counts.n_long} of {counts.n_rows} rows exceed {plan.max_length} tokens: {cuts[trainer]}")
    if counts.n_other_tokens:
        notes.append(f"{counts.n_other_tokens} rows are cut into other tokens by the trainer than by `tclora train`")
    if counts.n_without_response:
        notes.append(f"{counts.n_without_response} rows without a response to learn are left out")
    if base.template.name == "plain":
        notes.append("the tokenizer has no chat template in use: the rows hold tclora's plain instruction template")
    return tuple(notes)


def _run_all(plan: ExportPlan, command: Callable[[str], str]) -> str:
    names = " ".join(shlex.quote(job.name) for job in plan.jobs)
    return (
        "#!/bin/sh\n"
        "# Trains every cluster that has no adapter yet. After a stop, run it again: finished ones are skipped.\n"
        "set -eu\n"
        'cd "$(dirname "$0")"\n'
        f"for name in {names}; do\n"
        '  if [ -f "adapters/$name/adapter_model.safetensors" ]; then echo "$name: there already"; continue; fi\n'
        f"  {command('$name').replace('configs/$name.yaml', chr(34) + 'configs/$name.yaml' + chr(34))}\n"
        "done\n"
    )
