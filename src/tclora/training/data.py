"""The rows of one training as tokens, and the mean loss on them.

In: a job and its base. Out: training rows with a response, and dev rows. Refused: data without a response that fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tclora.data import Example, read_examples
from tclora.errors import DataError
from tclora.models import Base, Tokens, response_losses, tokenize_example
from tclora.training.job import TrainJob

__all__ = ["JobData", "mean_loss", "read_data"]


@dataclass(frozen=True)
class JobData:
    """Tokenized examples; `n_truncated` training examples lost prompt tokens."""

    train: tuple[Tokens, ...]
    dev: tuple[Tokens, ...]
    n_truncated: int


def read_data(job: TrainJob, base: Base) -> JobData:
    """Read and tokenize the job's files.

    Raises:
        DataError: a file cannot be read, or no response fits.
    """
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
    return JobData(train, tuple(tokenize_example(base, example) for example in dev), sum(row.truncated for row in rows))


@torch.no_grad()
def mean_loss(base: Base, tokens: Sequence[Tokens], job: TrainJob) -> float | None:
    """Nats per response token, None where there is none."""
    sums, counts = response_losses(base, tokens, batch_size=job.params.micro_batch_size or job.params.batch_size)
    return float(sums.sum() / counts.sum()) if counts.sum() else None
