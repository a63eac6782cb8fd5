"""The data stage: the user's files become `train.jsonl` and `dev.jsonl` in one form."""

from pathlib import Path

from tclora.artifacts import Manifest, sha256_file
from tclora.config import DataConfig, RunConfig
from tclora.data import Example, expand_paths, hold_out, read_examples, sample_examples, split_dev, write_examples
from tclora.errors import DataError
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.stage import Stage, run_stage

__all__ = ["data_stage"]


def data_stage(config: RunConfig, run: RunFolder, progress: Progress) -> Manifest:
    """Read, sample and split the examples."""
    given = {"train": config.data.train, "dev": config.data.dev, "held_out": config.data.held_out}
    paths = {part: expand_paths(names) for part, names in given.items() if names}
    # Where files lie does not matter, so that a moved folder is not read again; what they hold does.
    settings = config.data.model_dump(mode="json", exclude=set(given))
    inputs = {f"{part}/{index}": sha256_file(path) for part, files in paths.items() for index, path in enumerate(files)}
    stage = Stage("data", run.data, settings, inputs, config.seed)
    return run_stage(stage, lambda folder: _build_data(config.data, folder, config.seed), progress)


def _build_data(config: DataConfig, folder: Path, seed: int) -> None:
    train = read_examples(config.train, format=config.format, fields=config.fields)
    if config.hold_out_sha1:
        train = hold_out(train, config.hold_out_sha1)
    if config.dev:
        dev = read_examples(config.dev, format=config.format, fields=config.fields)
    else:
        train, dev = split_dev(train, config.dev_fraction, seed=seed)
    train, dev = _sampled(train, config.max_train, seed), _sampled(dev, config.max_dev, seed)
    if not train or not dev:
        raise DataError(
            "there are no examples to work with",
            found=f"{len(train)} for training, {len(dev)} for dev",
            expected="at least one of each",
            do="check hold_out_sha1, dev_fraction and the data files",
        )
    held_out = read_examples(config.held_out, format=config.format, fields=config.fields) if config.held_out else []
    parts = {"train": train, "dev": dev, "held_out": _sampled(held_out, config.max_held_out, seed)}
    for part, rows in parts.items():
        write_examples(folder / f"{part}.jsonl", rows)


def _sampled(examples: list[Example], limit: int | None, seed: int) -> list[Example]:
    return examples if limit is None or len(examples) <= limit else sample_examples(examples, limit, seed=seed)
