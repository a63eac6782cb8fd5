"""Training jobs on an executor: in groups of nearly equal work, one for each worker.

In: `TrainJob`s. Out: their records, in the order of the jobs. A group is the unit that an executor starts, loses and
tries again; its adapters are trained together on one base in one process. The grouping depends on the jobs and the
number of workers alone, never on what is finished, so that a resumed run has the groups of the first and gives the same
bytes. Another number of workers makes other groups, and with them other roundings in the last digits.
"""

from collections.abc import Sequence
from pathlib import Path

from tclora.execution import Executor, balanced_groups, report
from tclora.pipeline.progress import Progress
from tclora.records import TrainRecord
from tclora.training import TrainJob, train_together

__all__ = ["expected_work", "train_group", "train_jobs"]

_BYTES_PER_TOKEN = 4
"""Of English text under common tokenizers; it only weighs a token budget against the size of a file."""


def train_jobs(jobs: Sequence[TrainJob], executor: Executor, progress: Progress) -> tuple[TrainRecord, ...]:
    """Train all jobs, wherever the executor runs them.

    Raises:
        JobFailedError: a group failed and is not tried again; finished adapters stand.
    """
    indices = balanced_groups([expected_work(job) for job in jobs], executor.workers)
    groups = [tuple(jobs[index] for index in group) for group in indices]
    records: dict[int, TrainRecord] = {}
    for group, trained in executor.as_completed(train_group, groups, watcher=progress):
        records |= zip(indices[group], trained, strict=True)
    return tuple(records[index] for index in range(len(jobs)))


def train_group(jobs: tuple[TrainJob, ...]) -> tuple[TrainRecord, ...]:
    """Train one group in this process and report every step; what is finished is not trained again."""
    return train_together(jobs, on_step=report)


def expected_work(job: TrainJob) -> float:
    """The bytes of text that the job puts through the model, about; 0 where its data cannot be read."""
    path, params = Path(job.train_file), job.params
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            n_rows = sum(1 for _ in file)
    except OSError:
        return 0.0  # the training itself says what is wrong
    if job.max_tokens is not None:
        return float(job.max_tokens * _BYTES_PER_TOKEN)
    rows = n_rows * params.epochs
    if params.max_steps is not None:
        rows = min(rows, params.max_steps * params.batch_size)
    return size * rows / max(1, n_rows)
