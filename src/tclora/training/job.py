"""What one training is, as a picklable value, and the digest that says whether two are the same.

In: paths and settings. Out: `TrainJob`, and a digest over everything that can change the result: settings, seed,
budget, the bytes of the data files and the base model's files. Where things lie and how often a checkpoint is written
do not enter it, so a moved run folder is still finished. Refused: data files that cannot be read.
"""

from dataclasses import dataclass
from pathlib import Path

from tclora.artifacts import digest_of, sha256_file
from tclora.config import BaseModelConfig, TrainConfig
from tclora.errors import DataError
from tclora.models import base_files_digest

__all__ = ["TrainJob", "job_digest"]

_FORMAT = 1
_NO_INFLUENCE = {
    "checkpoint_every",
    "multi_task",
    "controls",
    "min_task_size",
    "max_together",
    "gradient_checkpointing",
}


@dataclass(frozen=True)
class TrainJob:
    """One adapter to train: an executor may run it in another process or on another machine."""

    name: str
    base: BaseModelConfig
    train_file: str
    dev_file: str | None
    out: str
    params: TrainConfig
    seed: int
    max_tokens: int | None = None
    """A budget of tokens put through the model; with it `epochs` and `max_steps` no longer bound the training."""


def job_digest(job: TrainJob) -> str:
    """Hex SHA-256 of what determines the job's result. Reads the data files, and of a large base only the edges.

    Raises:
        DataError: a data file cannot be read.
        ConfigError: the base model's path is no folder.
    """
    # Validated once more, since a default 16 and a given 16.0 are one setting.
    params = TrainConfig.model_validate(job.params.model_dump())
    files = {"train": job.train_file, "dev": job.dev_file}
    return digest_of(
        {
            "format": _FORMAT,
            "name": job.name,
            "seed": job.seed,
            "max_tokens": job.max_tokens,
            "params": params.model_dump(mode="json", exclude=_NO_INFLUENCE),
            "base": job.base.model_dump(mode="json", exclude={"path", "threads", "device"}),
            "base_files": base_files_digest(job.base),
            "data": {use: None if path is None else _file_digest(job.name, path) for use, path in files.items()},
        }
    )


def _file_digest(name: str, path: str) -> str:
    try:
        return sha256_file(Path(path))
    except OSError as error:
        raise DataError(
            f"the data of {name} cannot be read",
            where=path,
            found=error.strerror or str(error),
            expected="a readable file of examples",
            do="write the data first, or correct the path",
        ) from None
