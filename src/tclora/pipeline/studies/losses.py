"""The dev losses of a library: every dev example by the adapter of its own cluster, on one load of the base.

In: a finished library, the examples' clusters and the base's settings. Out: `losses.npy`, summed nats and response
tokens of every dev example, in a folder of its own that is skipped while nothing it depends on has changed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tclora.adapters import read_adapter
from tclora.artifacts import Manifest
from tclora.config import RunConfig
from tclora.data import read_examples
from tclora.models import Base, attached, response_losses, tokenize_example
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.cluster import read_labels
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage

__all__ = ["Losses", "losses_stage"]

Losses = tuple[np.ndarray, np.ndarray]
_FILE = "losses.npy"


def losses_stage(
    config: RunConfig, run: RunFolder, done: dict[str, Manifest], base: Callable[[], Base], progress: Progress
) -> Losses:
    """Nats `(n_dev,)` and response tokens `(n_dev,)` of every dev example."""
    inputs = {name: inputs_digest(done[name]) for name in ("data", "cluster", "train")}
    folder = run.library.parent.parent / "losses" / run.library.name
    stage = Stage("losses", folder, {"batch_size": config.evaluate.batch_size}, inputs, config.seed)
    run_stage(stage, lambda staging: _score(config, run, staging, base()), progress)
    nats, n_tokens = np.load(folder / _FILE, allow_pickle=False)
    return nats, n_tokens.astype(np.int64)


def _score(config: RunConfig, run: RunFolder, folder: Path, base: Base) -> None:
    tokens = [tokenize_example(base, example) for example in read_examples([str(run.data / "dev.jsonl")])]
    labels = read_labels(run, "dev")
    found = np.zeros((2, len(tokens)))
    for index in sorted(set(labels.tolist())):
        rows = np.flatnonzero(labels == index)
        with attached(base, read_adapter(run.library / cluster_name(index))) as adapted:
            batch = [tokens[row] for row in rows.tolist()]
            found[:, rows] = response_losses(adapted, batch, batch_size=config.evaluate.batch_size)
    np.save(folder / _FILE, found, allow_pickle=False)
