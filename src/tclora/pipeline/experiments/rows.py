"""The rows of a library that an experiment scores, in three folds that do not depend on how it was clustered.

In: a finished run and the numbers of rows. Out: a `RowSet` for each of `choose`, `report` and `held_out`, with every
row's cluster and its group in the control of random clusters, and the examples themselves. A dev row's fold is a hash
of its text, so it is the same for every number of clusters, every seed and every experiment: a scale that was chosen
anywhere was not chosen on a row that is reported anywhere. Refused: a fold without rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tclora.artifacts import digest_of
from tclora.clustering import assign_examples, load_clusters
from tclora.config import RunConfig
from tclora.config.experiment_merges import RowsConfig
from tclora.data import Example, read_examples
from tclora.encoding import load_encoder
from tclora.errors import ConfigError, DataError
from tclora.evaluation.rows import RowSet
from tclora.models import Base, tokenize_example
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.stages.cluster import read_labels
from tclora.pipeline.stages.control_contestants import dev_routes, new_routes
from tclora.pipeline.stages.control_groups import ControlGroups

__all__ = ["CHOOSE", "HELD_OUT", "REPORT", "Fold", "fold_of", "folds_of", "rows_digest"]

CHOOSE, REPORT, HELD_OUT = "choose", "report", "held_out"


@dataclass(frozen=True)
class Fold:
    """Some rows of a library: what is asked of a model, and the examples it was made of."""

    rows: RowSet
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)


def fold_of(example: Example) -> str:
    """`choose` or `report`, by a hash of the example's content alone."""
    return CHOOSE if int(_place(example)[0], 16) < 8 else REPORT


def rows_digest(fold: Fold) -> str:
    """Equal for folds that hold the same examples in the same order, whatever library they are of."""
    return digest_of([example.key for example in fold.examples])


def folds_of(
    config: RunConfig, run: RunFolder, base: Base, groups: Sequence[ControlGroups], wanted: RowsConfig
) -> dict[str, Fold]:
    """The folds of a finished run by name; `held_out` only where it is asked for and the run has such rows.

    Raises:
        DataError: a fold of dev rows is empty.
        ConfigError: the run was clustered by embeddings that new texts cannot have.
    """
    dev = read_examples([str(run.data / "dev.jsonl")])
    labels, routes = read_labels(run, "dev"), dev_routes(groups)
    folds = {}
    for name, most in ((CHOOSE, wanted.choose), (REPORT, wanted.report)):
        places = _first([i for i, example in enumerate(dev) if fold_of(example) == name], dev, most)
        if not places:
            raise DataError(
                f"the experiment has no rows in its fold '{name}'",
                where=run.data / "dev.jsonl",
                found=f"{len(dev)} dev rows, none of which fell there",
                do="give the library more dev rows",
            )
        some = {route: tuple(places_of[i] for i in places) for route, places_of in routes.items()}
        folds[name] = _fold(base, name, [dev[i] for i in places], tuple(int(labels[i]) for i in places), some)
    new = read_examples([str(run.data / "held_out.jsonl")], allow_empty=True) if wanted.held_out else []
    if new:
        chosen = [new[i] for i in _first(list(range(len(new))), new, wanted.held_out)]
        folds[HELD_OUT] = _held_out(config, run, base, groups, chosen)
    return folds


def _held_out(
    config: RunConfig, run: RunFolder, base: Base, groups: Sequence[ControlGroups], examples: list[Example]
) -> Fold:
    """Rows of unseen tasks, each with the cluster whose centroid is nearest."""
    if config.encode.encoder == "precomputed":
        raise ConfigError(
            "rows of unseen tasks cannot be routed with precomputed embeddings",
            where="rows.held_out",
            do="set it to 0, or choose another encoder for the library",
        )
    encoder = load_encoder(config.encode, run.encode / "encoder", base=lambda: base)
    vectors = encoder.encode([example.text(config.encode.text) for example in examples])
    tasks = [example.task for example in examples]
    clusters = assign_examples(load_clusters(run.cluster), vectors, tasks=tasks, seed=config.seed)
    routes = new_routes(groups, vectors, clusters, tasks, seed=config.seed, use="held out")
    return _fold(base, HELD_OUT, examples, tuple(np.asarray(clusters).tolist()), routes)


def _fold(
    base: Base, name: str, examples: list[Example], clusters: tuple[int, ...], routes: dict[str, tuple[int, ...]]
) -> Fold:
    tokens = tuple(tokenize_example(base, example) for example in examples)
    return Fold(RowSet(name, tokens, clusters, routes=routes), tuple(examples))


def _first(places: list[int], examples: Sequence[Example], most: int) -> list[int]:
    """At most so many of them, by their hashes, in the order of the file."""
    return sorted(sorted(places, key=lambda i: (_place(examples[i]), i))[:most])


def _place(example: Example) -> str:
    return digest_of(["experiment", example.key])
