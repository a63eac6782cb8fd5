"""What a method of a run learns before it merges: from training rows of each adapter's own cluster.

In: a merge of the config, its adapters, and for each the file of its training rows. Out: parameters and weights to
merge with, and the `Learned` to be kept beside the result. Some rows of each file are drawn by the run's seed. Refused,
before any training: weights beside a method that learns them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tclora.adapters import Adapter
from tclora.config import BaseModelConfig, MergeConfig
from tclora.data import read_examples
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS, parse_params
from tclora.merging.learning import Learned, LearningProblem, learn_weights, learns
from tclora.merging.method import Params
from tclora.models import load_base
from tclora.pipeline.merges.learn_rows import drawn_pools

__all__ = ["RowSources", "check_run_learning", "learn_in_run", "row_files"]

Weights = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class RowSources:
    """Where a method may learn from: the base, and the training rows of each adapter, in the adapters' order."""

    base: BaseModelConfig
    files: tuple[str, ...]
    seed: int


def check_run_learning(merge: MergeConfig) -> None:
    """Refuse weights beside a method that finds them itself.

    Raises:
        ConfigError: it is so.
    """
    facts = MERGE_METHODS.entry(merge.method).facts
    if not learns(merge.method) or merge.weights == "uniform" or facts.get("takes_weights"):
        return
    raise ConfigError(
        f"'{merge.method}' learns its weights",
        where=f"merge '{merge.label}'",
        found="weights that are given",
        expected="weights: uniform",
        do="leave them out",
    )


def row_files(merge: MergeConfig, root: Path, files: Mapping[str, str | None]) -> tuple[str, ...]:
    """The files of training rows, by adapter and relative to `root`, as paths.

    Raises:
        ConfigError: an adapter has none, such as one that was imported.
    """
    lacking = [name for name, file in files.items() if file is None]
    if lacking:
        raise ConfigError(
            f"'{merge.method}' learns from rows of every adapter, and some have none",
            where=f"merge '{merge.label}'",
            found=", ".join(lacking),
            expected="adapters whose training rows are in the library",
            do="leave this merge out with --set, or merge by `tclora merge` with --examples",
        )
    return tuple(str(root / file) for file in files.values() if file is not None)


def learn_in_run(
    merge: MergeConfig, adapters: Sequence[Adapter], sources: RowSources, told: Callable[[int, int], None]
) -> tuple[Params, Weights | None, Learned]:
    """Learn what the method merges by.

    Returns:
        parameters, weights per module (None: those of the merge), and what was learned.

    Raises:
        DataError: the rows have no responses and the method needs them.
        TcLoraError: as `learn_weights`.
    """
    params = parse_params(merge.method, merge.params)
    labelled = bool(MERGE_METHODS.entry(merge.method).facts["labelled"])
    named = zip(adapters, sources.files, strict=True)
    rows = {adapter.name: read_examples(Path(file), require_output=labelled) for adapter, file in named}
    pools = drawn_pools(rows, merge.learn_rows, merge.learn_share, sources.seed)
    # Weights from labels are of one mixture; what is learned without them is of each adapter's own inputs.
    examples = [row for rows in pools.values() for row in rows] if labelled else pools
    problem = LearningProblem(load_base(sources.base), examples, sources.seed)
    learned = learn_weights(merge.method, adapters, problem, params=params, on_progress=told)
    settled, weights = learned.settle(params, adapters)
    return settled, weights, learned
