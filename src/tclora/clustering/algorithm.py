"""One protocol for every way to cluster: a function from a `FitJob` to a `Fitted`, registered by name.

An algorithm either gives centroids, and every row then goes to the nearest, or labels of all rows, and the centroids
are then the means of the members. Nothing here fits anything; `tclora.clustering.fit` calls what is registered.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tclora.clustering.model import ExampleFacts
from tclora.config import ClusterConfig
from tclora.registry import Registry
from tclora.shapes import Float, Int

__all__ = ["CLUSTER_ALGORITHMS", "ClusterAlgorithm", "FitJob", "Fitted"]


@dataclass(frozen=True, eq=False)
class FitJob:
    """What an algorithm is given.

    `sample` holds the rows to fit on, in float32 and in memory: `sample_fraction` of all rows, at most `max_sample`.
    `embeddings` is the whole matrix, as it was given, often memory-mapped: an algorithm may read it in chunks.
    """

    sample: Float[np.ndarray, "s d_embed"]
    n_clusters: int
    config: ClusterConfig
    seed: int
    embeddings: Float[np.ndarray, "n_examples d_embed"]
    facts: ExampleFacts


@dataclass(frozen=True, eq=False)
class Fitted:
    """What an algorithm gives back: centroids, or labels of all rows; the other is None."""

    centroids: Float[np.ndarray, "k d_embed"] | None = None
    labels: Int[np.ndarray, " n_examples"] | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    engine: str = "tclora"
    notes: tuple[str, ...] = ()


ClusterAlgorithm = Callable[[FitJob], Fitted]

# Facts of an entry: `max_rows`, the sample above which time or memory grows with its square; None where it does not.
# `fits`: False where the algorithm reads no sample. `extra`: what must be installed.
CLUSTER_ALGORITHMS: Registry[ClusterAlgorithm] = Registry("clustering algorithm")
