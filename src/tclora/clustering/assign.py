"""The clusters of new examples: nearest centroid, known task, or a random deal, as the model was made.

In: a `ClusterModel`, the embeddings `(n, d_embed)` of new examples, and their task labels where they have any. Out:
labels `(n,)`. Refused: as `assign_clusters`.
"""

from collections.abc import Sequence

import numpy as np

from tclora.clustering.at_random import shared_labels
from tclora.clustering.model import ClusterModel
from tclora.clustering.passes import assign_clusters
from tclora.shapes import Float, Int

__all__ = ["assign_examples", "assignment_of"]


def assign_examples(
    model: ClusterModel,
    embeddings: Float[np.ndarray, "n d_embed"],
    *,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
) -> Int[np.ndarray, " n"]:
    """Give each new example a cluster.

    `task` and `mbc`: the cluster of its task, or family, where the model knows it, else the nearest centroid. `random`:
    a random cluster, in the shares of the training examples. Else the nearest centroid, also where sizes were balanced.
    """
    nearest = assign_clusters(embeddings, model.centroids)
    if model.algorithm == "random" and model.sizes:
        return shared_labels(model.sizes, len(nearest), seed)
    if model.groups and tasks is not None:
        known = {task: index for index, group in enumerate(model.groups) for task in group}
        found = [known.get(task, known.get(task.split("/", 1)[0], -1)) for task in tasks]
        return np.where(np.array(found, dtype=np.int64) >= 0, np.array(found, dtype=np.int64), nearest)
    return nearest


def assignment_of(model: ClusterModel) -> str:
    """How `assign_examples` decides, in words."""
    if model.algorithm == "random" and model.sizes:
        return "at random, in the shares of the training examples"
    return "by task, else nearest centroid" if model.groups else "nearest centroid"
