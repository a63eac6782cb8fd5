"""What a clustering is: fitted centroids, the label of every training row, and the facts some algorithms need.

All are frozen values. `ClusterModel` is what is stored and what new rows are assigned with; `Clustering` adds the
labels of the training rows, which for `task`, `mbc` and `random`, and where sizes were balanced, are not those of the
nearest centroid. Refused: nothing here; the checks are in `tclora.clustering.fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tclora.shapes import Float, Int

__all__ = ["ClusterModel", "Clustering", "ExampleFacts"]


@dataclass(frozen=True, eq=False)
class ClusterModel:
    """Fitted centroids, the rows they were fitted on, and the mean squared distance of all training rows to them."""

    centroids: Float[np.ndarray, "k d_embed"]
    sample_size: int
    inertia: float
    algorithm: str = "kmeans"
    engine: str = "scikit-learn"
    """What did the fit: a package, or `tclora`."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Of `task` and `mbc`: the task labels of each cluster, which say where a new example of a known task goes."""
    sizes: tuple[int, ...] = ()
    """Training rows of each cluster."""
    notes: tuple[str, ...] = ()
    """What a reader of the record should know: clusters merged, split or dissolved, rows moved."""

    @property
    def n_clusters(self) -> int:
        """The number of clusters there are, which dissolving may have made smaller than the number asked for."""
        return len(self.centroids)


@dataclass(frozen=True, eq=False)
class Clustering:
    """A model and the cluster of each training row."""

    model: ClusterModel
    labels: Int[np.ndarray, " n_examples"]


@dataclass(frozen=True, eq=False)
class ExampleFacts:
    """What is known of the training rows beside their embeddings; each may be missing."""

    tasks: Sequence[str] | None = None
    """The task label of each row; empty where a row has none."""
    n_tokens: Int[np.ndarray, " n_examples"] | None = None
    """The length of each row, prompt and response."""
    token_unit: str = "words"
    """What `n_tokens` counts: `tokens` of the base's tokenizer, or `words`."""
    library: Path | None = None
    """Of `mbc`: a folder of adapters, each named by its task."""
