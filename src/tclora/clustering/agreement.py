"""How far a clustering agrees with other labels of the same examples: purity and normalized mutual information.

In: labels 0 to k-1 of the same rows. Out: one number. Refused: label vectors of different lengths, and none at all.
Beside them the silhouette of a sample, which needs the rows and no other labels.
"""

import numpy as np

from tclora.clustering.quality import pairwise_distances, silhouette
from tclora.errors import ShapeError
from tclora.shapes import Float, Int

__all__ = ["normalized_mutual_information", "purity", "silhouette_of_sample"]


def purity(labels: Int[np.ndarray, " n"], truth: Int[np.ndarray, " m"]) -> float:
    """Share of the rows whose true label is the commonest of their cluster: 1 if every cluster is of one kind.

    It rises with the number of clusters, to 1 where each row is its own; compare it at one number.

    Source: Manning, Raghavan and Schütze 2008, section 16.3.
    """
    return float(_table(labels, truth).max(axis=1).sum() / len(labels))


def normalized_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """Mutual information over the mean of the two entropies: 1 if each tells the other, 0 if they are independent.

    Two labelings without any distinction (one cluster each) agree: 1.

    Source: Vinh, Epps and Bailey 2010, arithmetic normalization, as scikit-learn's default.
    """
    joint = _table(a, b) / len(a)
    alone_a, alone_b = joint.sum(axis=1), joint.sum(axis=0)
    entropies = _entropy(alone_a) + _entropy(alone_b)
    if entropies == 0:
        return 1.0
    shared = _entropy(alone_a) + _entropy(alone_b) - _entropy(joint.ravel())
    return float(min(1.0, max(0.0, 2 * shared / entropies)))


def silhouette_of_sample(
    rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], *, max_rows: int, seed: int
) -> float:
    """The silhouette of at most `max_rows` rows, drawn by `seed`; the rows may be memory-mapped.

    Source: Rousseeuw 1987.
    """
    chosen = np.arange(len(rows))
    if len(rows) > max_rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), max_rows, replace=False))
    return silhouette(pairwise_distances(np.asarray(rows[chosen], dtype=np.float64)), labels[chosen])


def _entropy(shares: np.ndarray) -> float:
    held = shares[shares > 0]
    return float(-(held * np.log(held)).sum()) + 0.0


def _table(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if len(a) != len(b) or len(a) == 0:
        raise ShapeError("two labelings of different rows cannot agree", found=f"{len(a)} and {len(b)} labels")
    width = int(b.max()) + 1
    return np.bincount(a * width + b, minlength=(int(a.max()) + 1) * width).reshape(-1, width)
