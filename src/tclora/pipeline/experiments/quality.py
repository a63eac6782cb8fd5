"""How good the clustering of a library is, beside what contestants lose: one row for each library and seed.

In: an open library, and the contestants' losses on its `report` rows. Out: a `QualityRow`. Measures that need task
labels are None where the data have none.
"""

from collections.abc import Mapping

import numpy as np

from tclora.clustering import balance, normalized_mutual_information, purity, silhouette_of_sample
from tclora.data import iter_examples, task_groups
from tclora.pipeline.experiments.library import OpenLibrary
from tclora.pipeline.experiments.losses import Losses
from tclora.pipeline.stages.cluster import read_labels
from tclora.records.experiment import QualityRow

__all__ = ["quality_row"]

_SILHOUETTE_ROWS = 2000


def quality_row(library: OpenLibrary, losses: Mapping[str, Losses]) -> QualityRow:
    """Measures of the clusters of the training rows, as in a study of clusterings."""
    labels = read_labels(library.run, "train")
    rows = np.load(library.run.encode / "train.npy", mmap_mode="r", allow_pickle=False)
    tasks = task_groups(list(iter_examples(library.run.data / "train.jsonl")))
    known = np.array([place for place, task in enumerate(tasks) if task], dtype=np.int64)
    truth = np.unique([tasks[place] for place in known.tolist()], return_inverse=True)[1] if len(known) else None
    return QualityRow(
        library=library.name,
        seed=library.seed,
        n_clusters=len(library.adapters),
        balance=balance(np.bincount(labels)),
        silhouette=silhouette_of_sample(rows, labels, max_rows=_SILHOUETTE_ROWS, seed=library.seed),
        purity=None if truth is None else purity(labels[known], truth),
        task_nmi=None if truth is None else normalized_mutual_information(labels[known], truth),
        losses={name: one.mean for name, one in losses.items()},
    )
