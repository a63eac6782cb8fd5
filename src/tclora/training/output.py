"""The folder of a finished adapter, and the work folder beside it.

In: a job's weights and figures. Out: `adapter_config.json`, `adapter_model.safetensors`, `job.json` (the job's digest
and those of the two files) and, last, `record.json`; the folder appears whole or not at all. Refused: an existing
folder that is not this job's finished adapter.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tclora.artifacts import read_json, sha256_file, staged_folder, write_json
from tclora.errors import ArtifactError, OutputExistsError
from tclora.models import Base, resolve_targets
from tclora.records import TrainRecord, from_json, to_json
from tclora.training.data import JobData
from tclora.training.job import TrainJob
from tclora.training.lora import write_peft_folder
from tclora.training.plan import Plan

__all__ = ["Outcome", "finished_record", "record_of", "remove_partials", "work_folder", "write_output"]

_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    losses: Sequence[float]
    dev_loss: float | None
    dev_loss_base: float | None
    trainer: str
    notes: tuple[str, ...] = ()


def work_folder(job: TrainJob) -> Path:
    """Where the job's checkpoints and lock lie while it is being trained."""
    return Path(job.out).with_name(Path(job.out).name + ".work")


def finished_record(out: Path, digest: str) -> TrainRecord | None:
    """The record of this job's whole output, None where there is no output.

    Raises:
        OutputExistsError: the folder holds anything else.
    """
    if not out.exists():
        return None
    try:
        made_by, record = read_json(out / "job.json"), from_json(TrainRecord, read_json(out / "record.json"))
        if made_by == {"job": digest, "sha256": _digests(out)}:
            return record
        found = "an adapter of another job, or one changed since it was written"
    except (ArtifactError, OSError) as error:
        found = error.found if isinstance(error, ArtifactError) else str(error)
    raise OutputExistsError(
        "the output of a training exists and is not this job's adapter",
        where=out,
        found=found,
        expected="no folder, or the finished adapter of the same data, settings and base",
        do="remove the folder, or choose another output",
    )


def remove_partials(work: Path) -> None:
    """Remove what a killed writer left; the lock is held, so it belongs to nobody."""
    for left in work.glob(".*.partial"):
        shutil.rmtree(left)


def record_of(job: TrainJob, base: Base, data: JobData, plan: Plan, outcome: Outcome) -> TrainRecord:
    """The record; tokens are those of the steps that were done, which early stopping may make fewer than planned."""
    targets = resolve_targets(base.model, job.params.target_modules)
    seen = [data.train[index] for batch in plan.batches[: len(outcome.losses)] for index in batch]
    return TrainRecord(
        name=job.name,
        n_examples=len(data.train),
        n_steps=len(outcome.losses),
        n_tokens=sum(len(row.ids) for row in seen),
        n_response_tokens=sum(row.n_scored for row in seen),
        train_loss=_mean_of_last_tenth(outcome.losses),
        dev_loss=outcome.dev_loss,
        dev_loss_base=outcome.dev_loss_base,
        r=job.params.r,
        lora_alpha=float(job.params.lora_alpha),
        target_modules=(targets,) if isinstance(targets, str) else targets,
        truncated=data.n_truncated,
        trainer=outcome.trainer,
        notes=outcome.notes,
    )


def write_output(job: TrainJob, base: Base, digest: str, weights: dict[str, Tensor], record: TrainRecord) -> None:
    """Write the adapter's folder; `weights` as `write_peft_folder` takes them."""
    with staged_folder(Path(job.out)) as folder:
        write_peft_folder(folder, weights, base, job.params)
        write_json(folder / "job.json", {"job": digest, "sha256": _digests(folder)})
        write_json(folder / "record.json", to_json(record))


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in _FILES}


def _mean_of_last_tenth(losses: Sequence[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)
