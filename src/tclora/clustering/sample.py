"""The rows that an algorithm is fitted on.

In: the embeddings, the settings and the number of clusters. Out: a sample in memory, drawn without replacement, or all
rows where the sample would be as large. Refused: more clusters than distinct rows; NaN and infinity, by row.

Source: section 3.2 of arXiv 2508.03999: a random 20 %.
"""

import math

import numpy as np

from tclora.clustering.rows import distinct_rows, for_each_chunk, gather_rows, read_rows
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, NumericalError
from tclora.shapes import Float

__all__ = ["check_distinct", "draw_sample"]

# Fewer rows than this for each cluster make a sample's centroids a matter of luck (and cost nothing to add).
_ROWS_PER_CLUSTER = 50


def draw_sample(
    embeddings: Float[np.ndarray, "n d_embed"], config: ClusterConfig, k: int, seed: int, max_rows: int | None
) -> Float[np.ndarray, "s d_embed"]:
    """`sample_fraction` of the rows, or 50 for each cluster where that is more, but no more than the upper bound.

    The bound is `max_sample`, or `max_rows` of the algorithm. A sample with too few distinct rows gets the missing
    ones.

    Raises:
        ConfigError: fewer distinct rows than clusters.
        NumericalError: a sampled row holds NaN or infinity; names the first such row of all.
    """
    wanted = max(math.ceil(config.sample_fraction * len(embeddings)), _ROWS_PER_CLUSTER * k)
    bound = config.max_sample or max_rows
    wanted = wanted if bound is None else min(wanted, max(bound, k))
    if wanted >= len(embeddings):
        sample = read_rows(embeddings, 0, len(embeddings))
        _check_finite(sample, embeddings)
        check_distinct(sample, k)
        return sample
    chosen = np.sort(np.random.default_rng(seed).choice(len(embeddings), wanted, replace=False))
    sample = gather_rows(embeddings, chosen)
    _check_finite(sample, embeddings)
    if len(distinct_rows(sample, k)) < k:
        # The sample missed rare rows: they are added, so that as many clusters are possible as there are kinds of rows.
        rare = check_distinct(embeddings, k)
        sample = gather_rows(embeddings, np.union1d(chosen, np.array(rare, dtype=np.int64)))
    return sample


def check_distinct(embeddings: Float[np.ndarray, "n d_embed"], k: int) -> list[int]:
    """The places of `k` distinct rows.

    Raises:
        ConfigError: there are fewer.
    """
    places = distinct_rows(embeddings, k)
    if len(places) < k:
        found = len(places)
        raise ConfigError(
            "there are fewer distinct examples than clusters",
            where="cluster.n_clusters",
            found=f"{found} distinct embeddings in {len(embeddings)} examples, {k} clusters",
            do=f"lower n_clusters to {found} or less, or bring more data" if found else "bring data",
        )
    return places


def _check_finite(sample: np.ndarray, embeddings: np.ndarray) -> None:
    if all(for_each_chunk(sample, lambda _, rows: bool(np.isfinite(rows).all()))):
        return

    def first_bad(start: int, rows: np.ndarray) -> int | None:
        finite = np.isfinite(rows).all(axis=1)
        return None if finite.all() else start + int(np.argmin(finite))

    row = next(place for place in for_each_chunk(embeddings, first_bad) if place is not None)
    raise NumericalError(
        "an embedding holds NaN or infinity",
        where=f"row {row}",
        expected="finite numbers",
        do="encode the examples again, or leave that row out",
    )
