"""Rows with known groups, for the tests of the search over k. Every function is a function of its seed alone."""

import numpy as np


def blobs(sizes, d: int, seed: int, *, apart: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal groups of unit variance whose means are `apart` or more from each other, rows shuffled; and the groups."""
    rng = np.random.default_rng(seed)
    means = [rng.standard_normal(d) * apart]
    while len(means) < len(sizes):
        mean = rng.standard_normal(d) * apart
        if min(np.linalg.norm(mean - other) for other in means) >= apart:
            means.append(mean)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (np.array(means)[groups] + rng.standard_normal((len(groups), d))).astype(np.float32), groups


def nested(seed: int, n: int = 900, d: int = 12) -> np.ndarray:
    """Three far groups, each of three near ones that are still apart."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    means = 30 * axes[:3][:, None] + 8 * axes[3:6][None]
    return (means.reshape(9, d)[rng.integers(0, 9, n)] + rng.standard_normal((n, d)) * 0.7).astype(np.float32)


def cloud(shape: str, n: int, d: int, seed: int) -> np.ndarray:
    """One group: `round`, `long` (variances fall as a power law, as those of embeddings do), `heavy` tails."""
    rng = np.random.default_rng(seed)
    if shape == "heavy":
        return rng.standard_t(5, (n, d)).astype(np.float32)
    scale = np.arange(1, d + 1) ** -0.7 if shape == "long" else np.ones(d)
    return (rng.standard_normal((n, d)) * scale).astype(np.float32)
