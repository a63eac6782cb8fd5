"""One LoRA for each cluster: the stage from examples to adapter folders.

In: `TrainJob`s. Out: for each a folder with `adapter_config.json`, `adapter_model.safetensors`, `job.json` (the job's
digest and those of the two files) and, last, `record.json` (the `TrainRecord`). The folder appears whole or not at all;
work in progress lies in `<out>.work`. The same command finishes a killed training, and returns at once for a finished
one. Refused: an existing output of another job, data without a response that fits.
"""

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tclora.artifacts import folder_lock, read_json, sha256_file, staged_folder, write_json
from tclora.config import BaseModelConfig
from tclora.data import Example, read_examples
from tclora.errors import ArtifactError, DataError, OutputExistsError
from tclora.execution import Executor
from tclora.models import Base, Tokens, load_base, resolve_targets, response_losses, tokenize_example
from tclora.records import TrainRecord, from_json, to_json
from tclora.training.job import TrainJob, job_digest
from tclora.training.loop import Run, run_steps
from tclora.training.lora import lora_on, write_peft_folder
from tclora.training.plan import plan_batches

__all__ = ["is_finished", "train_adapter", "train_library"]

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def train_library(jobs: Sequence[TrainJob], executor: Executor) -> Iterator[TrainRecord]:
    """Train one adapter for each job, wherever the executor runs them; records come in the order of the jobs.

    Raises:
        JobFailedError: a job failed; finished adapters stand and are not trained again.
    """
    return executor.map(train_adapter, jobs)


def train_adapter(
    job: TrainJob, *, base: Base | None = None, on_step: Callable[[int, int], None] | None = None
) -> TrainRecord:
    """Train one LoRA on the frozen base and write it as a PEFT folder.

    On the CPU the same job gives the same bytes, killed and resumed or not. `micro_batch_size` changes the result
    only by float rounding, and by drawing other dropout masks.

    Args:
        base: the base that `job.base` describes, where it is loaded already; it is left as it was.
        on_step: called with (steps done, steps in all) after every step.

    Returns:
        what was trained on what; losses in nats per response token.

    Raises:
        OutputExistsError: `job.out` exists and is not this job's finished adapter.
        DataError: the data cannot be read, or no response fits.
        ConfigError: the base cannot be loaded, or `target_modules` matches nothing.
        NumericalError: a loss or gradient is not finite.
        ArtifactError: another process is training this job.

    Source: Hu et al. 2021, arXiv 2106.09685; one adapter per cluster as in arXiv 2508.03999, section 3.2.
    """
    out, work, digest = Path(job.out), _work_folder(job), job_digest(job)
    finished = _finished(out, digest)
    if finished is None:
        with folder_lock(work):
            _remove_partials(work)
            # Another process may have finished while this one waited to look.
            finished = _finished(out, digest) or _train(
                job, base or _cached_base(job.base.model_dump_json()), digest, on_step
            )
            shutil.rmtree(work)
    elif work.exists():
        shutil.rmtree(work)
    return finished


def is_finished(job: TrainJob) -> bool:
    """Whether `job.out` holds this very job's adapter, whole and unchanged."""
    try:
        return _finished(Path(job.out), job_digest(job)) is not None
    except OutputExistsError:
        return False


@functools.lru_cache(maxsize=1)
def _cached_base(config_json: str) -> Base:
    # The jobs of a library share one base; a worker process loads it once.
    return load_base(BaseModelConfig.model_validate_json(config_json))


def _finished(out: Path, digest: str) -> TrainRecord | None:
    """The record of this job's whole output, None where there is no output."""
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


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in _FILES}


def _remove_partials(work: Path) -> None:
    # The lock is held, so what a killed writer left belongs to nobody.
    for left in work.glob(".*.partial"):
        shutil.rmtree(left)


@dataclass(frozen=True)
class _Data:
    train: tuple[Tokens, ...]
    dev: tuple[Tokens, ...]
    n_truncated: int


def _train(job: TrainJob, base: Base, digest: str, on_step: Callable[[int, int], None] | None) -> TrainRecord:
    data = _read(job, base)
    plan = plan_batches(data.train, job.params, seed=job.seed, max_tokens=job.max_tokens)
    dev_loss_base = _mean_loss(base, data.dev, job)
    with lora_on(base, job.params, seed=job.seed) as weights:
        run = Run(job.name, base, job.params, data.train, plan, job.seed, _work_folder(job), digest, on_step)
        losses = run_steps(run, weights)
        base.model.eval()  # no dropout while scoring
        dev_loss = _mean_loss(base, data.dev, job)
        trained = {name: weight.detach().clone() for name, weight in weights.items()}
    targets = resolve_targets(base.model, job.params.target_modules)
    record = TrainRecord(
        name=job.name,
        n_examples=len(data.train),
        n_steps=len(losses),
        n_tokens=plan.n_tokens,
        n_response_tokens=plan.n_response_tokens,
        train_loss=_mean_of_last_tenth(losses),
        dev_loss=dev_loss,
        dev_loss_base=dev_loss_base,
        r=job.params.r,
        lora_alpha=float(job.params.lora_alpha),
        target_modules=(targets,) if isinstance(targets, str) else targets,
        truncated=data.n_truncated,
    )
    _write(job, base, digest, trained, record)
    return record


def _mean_of_last_tenth(losses: Sequence[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _work_folder(job: TrainJob) -> Path:
    return Path(job.out).with_name(Path(job.out).name + ".work")


def _write(job: TrainJob, base: Base, digest: str, weights: dict[str, Tensor], record: TrainRecord) -> None:
    with staged_folder(Path(job.out)) as folder:
        write_peft_folder(folder, weights, base, job.params)
        write_json(folder / "job.json", {"job": digest, "sha256": _digests(folder)})
        write_json(folder / "record.json", to_json(record))


def _read(job: TrainJob, base: Base) -> _Data:
    rows = [tokenize_example(base, example) for example in read_examples([job.train_file])]
    train = tuple(row for row in rows if row.n_scored)
    if not train:
        raise DataError(
            f"there is nothing to train {job.name} on",
            where=job.train_file,
            found=f"{len(rows)} examples, none with a response within {base.max_length} tokens",
            expected="at least one example with a response",
            do="raise base.max_length, or ask for fewer clusters",
        )
    dev: list[Example] = read_examples([job.dev_file]) if job.dev_file is not None else []
    return _Data(train, tuple(tokenize_example(base, example) for example in dev), sum(row.truncated for row in rows))


@torch.no_grad()
def _mean_loss(base: Base, tokens: Sequence[Tokens], job: TrainJob) -> float | None:
    sums, counts = response_losses(base, tokens, batch_size=job.params.micro_batch_size or job.params.batch_size)
    return float(sums.sum() / counts.sum()) if counts.sum() else None
