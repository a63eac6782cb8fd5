"""How many clusters a run has: the number of the settings, or the one that is chosen from the embeddings.

In: the settings, the training embeddings, and what is known of the examples. Out: the number, and the record of the
choice where there was one. Refused: `auto` for clusters that are not made from embeddings, and what
`choose_n_clusters` refuses.
"""

from dataclasses import dataclass

import numpy as np

from tclora.clustering import ExampleFacts, choose_n_clusters, task_labels
from tclora.config import RunConfig
from tclora.errors import ConfigError
from tclora.pipeline.progress import Progress
from tclora.records import NClustersRecord

__all__ = ["Choice", "resolve_n_clusters"]


@dataclass(frozen=True)
class Choice:
    """The number of clusters, how it was chosen, and what a reader of the record should know."""

    n_clusters: int
    record: NClustersRecord | None = None
    notes: tuple[str, ...] = ()


def resolve_n_clusters(config: RunConfig, rows: np.ndarray, facts: ExampleFacts, progress: Progress) -> Choice:
    """The number of the settings; with `auto` one for each task label (`task`), or the one that the search chooses.

    Raises:
        ConfigError: `auto` with `mbc`, whose clusters follow from adapters; or what the search refuses.
    """
    asked = config.cluster.n_clusters
    if isinstance(asked, int):
        return Choice(asked)
    if config.cluster.algorithm == "mbc":
        raise ConfigError(
            "the number of clusters of mbc cannot be chosen from the embeddings",
            where="cluster.n_clusters",
            found=asked,
            expected="a number, for mbc groups tasks by their adapters",
            do="set cluster.n_clusters to a number",
        )
    if config.cluster.algorithm == "task":
        names = set(task_labels(facts.tasks or (), 2)) - {""}
        # Without labels the algorithm itself refuses, and says what to do.
        return Choice(max(1, len(names)), notes=(f"one cluster for each of {len(names)} task labels",))
    record = choose_n_clusters(
        rows,
        config.cluster,
        seed=config.seed,
        n_tokens=facts.n_tokens,
        step=lambda done, total: progress.step("choose k", done, total),
    )
    progress.note(f"cluster: {record.reasons}")
    return Choice(record.n_clusters, record, record.notes)
