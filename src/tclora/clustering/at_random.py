"""The control: clusters that hold random examples, exactly as many each as the clusters of k-means.

In: a `FitJob`, or labels. Out: shuffled labels. The reference is fitted with the same settings, seed and size limits,
so what differs from it is the content alone. New rows are dealt out in the same shares. Refused: nothing of its own.

Source: the control that Ostapenko et al. 2024 (arXiv 2405.11157) and Su et al. 2025 (arXiv 2508.03999) compare with.
"""

from collections.abc import Sequence

import numpy as np

from tclora.clustering.algorithm import CLUSTER_ALGORITHMS, FitJob, Fitted
from tclora.clustering.fit import fit_clusters
from tclora.shapes import Int

__all__ = ["at_random", "shared_labels", "shuffled_labels"]

# Keeps the shuffles apart from what else is drawn from one seed.
_SHUFFLE, _DEAL = 1, 2


@CLUSTER_ALGORITHMS.register("random", source="a control", max_rows=None, fits=False)
def at_random(job: FitJob) -> Fitted:
    """Random clusters of the sizes that k-means with the same settings gives: the control."""
    config = job.config.model_copy(update={"algorithm": "kmeans"})
    found = fit_clusters(job.embeddings, config, n_clusters=job.n_clusters, seed=job.seed, facts=job.facts)
    notes = ("random clusters of the sizes of k-means; a centroid is the mean of its cluster and says little",)
    return Fitted(
        labels=shuffled_labels(found.labels, job.seed), engine=found.model.engine, notes=found.model.notes + notes
    )


def shuffled_labels(labels: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """The same labels in random order: every cluster keeps its size."""
    return np.random.default_rng((seed, _SHUFFLE)).permutation(labels)


def shared_labels(sizes: Sequence[int], n: int, seed: int) -> Int[np.ndarray, " n"]:
    """Random labels of `n` rows in the shares of `sizes`, exact to a row (largest remainders)."""
    exact = np.asarray(sizes, dtype=np.float64) * n / sum(sizes)
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: n - int(counts.sum())]
    counts[largest] += 1
    return np.random.default_rng((seed, _DEAL)).permutation(np.repeat(np.arange(len(counts)), counts))
