"""One LoRA for each cluster: the stage from examples to adapter folders.

In: `TrainJob`s. Out: for each a folder with `adapter_config.json`, `adapter_model.safetensors`, `job.json` (the job's
digest and those of the two files) and, last, `record.json` (the `TrainRecord`). The folder appears whole or not at all;
work in progress lies in `<out>.work`. The same command finishes a killed training, and returns at once for a finished
one. Refused: an existing output of another job, data without a response that fits.
"""

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tclora.artifacts import folder_lock
from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, OutputExistsError
from tclora.execution import Executor
from tclora.models import Base, load_base
from tclora.records import TrainRecord
from tclora.training.data import mean_loss, read_data
from tclora.training.job import TrainJob, job_digest
from tclora.training.loop import Run, run_steps
from tclora.training.lora import lora_on, written_weights
from tclora.training.output import Outcome, finished_record, record_of, remove_partials, work_folder, write_output
from tclora.training.plan import plan_batches
from tclora.training.recompute import recomputing

__all__ = ["cached_base", "is_finished", "train_adapter", "train_alone", "train_library"]


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
    if job.params.trainer == "grouped" or job.params.patience is not None:
        from tclora.training.together import train_together  # it builds on this module

        report = None if on_step is None else lambda _, done, total: on_step(done, total)
        return train_together([job], base=base, on_step=report)[0]
    out, work, digest = Path(job.out), work_folder(job), job_digest(job)
    finished = finished_record(out, digest)
    if finished is None:
        with folder_lock(work):
            remove_partials(work)
            # Another process may have finished while this one waited to look.
            finished = finished_record(out, digest) or train_alone(
                job, base or cached_base(job.base.model_dump_json()), digest, on_step
            )
            shutil.rmtree(work)
    elif work.exists():
        shutil.rmtree(work)
    return finished


def is_finished(job: TrainJob) -> bool:
    """Whether `job.out` holds this very job's adapter, whole and unchanged."""
    try:
        return finished_record(Path(job.out), job_digest(job)) is not None
    except OutputExistsError:
        return False


@functools.lru_cache(maxsize=1)
def cached_base(config_json: str) -> Base:
    """The base of a config; the jobs of a library share one, and a worker process loads it once."""
    return load_base(BaseModelConfig.model_validate_json(config_json))


def train_alone(
    job: TrainJob,
    base: Base,
    digest: str,
    on_step: Callable[[int, int], None] | None,
    notes: tuple[str, ...] = (),
) -> TrainRecord:
    """Train and write one adapter through PEFT's own layers; the caller holds the lock of the work folder.

    Raises:
        ConfigError: early stopping is asked for, which is the grouped trainer's alone.
    """
    if job.params.patience is not None:
        raise ConfigError(
            f"the training of {job.name} cannot stop early",
            where="train.patience",
            found="; ".join(notes) or "train.trainer: plain",
            expected="the grouped trainer",
            do="leave patience out",
        )
    data = read_data(job, base)
    plan = plan_batches(data.train, job.params, seed=job.seed, max_tokens=job.max_tokens)
    dev_loss_base = mean_loss(base, data.dev, job)
    with lora_on(base, job.params, seed=job.seed, rows=data.train) as weights:
        run = Run(job.name, base, job.params, data.train, plan, job.seed, work_folder(job), digest, on_step)
        with recomputing(base.model, job.params.gradient_checkpointing):
            losses = run_steps(run, weights)
        base.model.eval()  # no dropout while scoring
        dev_loss = mean_loss(base, data.dev, job)
        trained = written_weights(base, weights)
    record = record_of(job, base, data, plan, Outcome(losses, dev_loss, dev_loss_base, "plain", notes))
    write_output(job, base, digest, trained, record)
    return record
