"""How many clusters: a search over k, each number measured on the same resamples, and one chosen by a rule.

In: embeddings, settings, lengths of the rows where known. Out: an `NClustersRecord` with the whole curve. The search
runs k-means on a sample on its principal axes, whatever algorithm then makes the clusters. Cost is bounded by
`choose_sample`, `n_resamples` and the candidates, not by the number of rows or their width. Refused: candidates that
are all too many for the rows; NaN and infinity, by row.

Measures and their sources are in `quality`, `stability` and `k_curve`; the rules are in `choice_rule`.
"""

from collections.abc import Callable

import numpy as np

from tclora.clustering.choice_rule import has_structure, reasons, suggestions
from tclora.clustering.k_curve import Floor, make_trials, measure
from tclora.clustering.search_space import N_AXES, SearchSpace, search_space
from tclora.clustering.short_runs import one_thread
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, DataError
from tclora.records import NClustersRecord
from tclora.shapes import Float, Int

__all__ = ["DEFAULT_CANDIDATES", "choose_n_clusters"]

DEFAULT_CANDIDATES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32)


def choose_n_clusters(
    embeddings: Float[np.ndarray, "n_examples d_embed"],
    config: ClusterConfig,
    *,
    seed: int,
    n_tokens: Int[np.ndarray, " n_examples"] | None = None,
    step: Callable[[int, int], None] | None = None,
) -> NClustersRecord:
    """Measure every candidate and choose one, or one cluster where nothing speaks for a split.

    Candidates for which there are too few rows are left out, and the notes say so.

    Args:
        n_tokens: lengths of the rows, for `min_tokens` and the balance by tokens.
        step: told how many of how many numbers are measured.

    Raises:
        ConfigError: `candidates` are set and there are too few rows for any of them.
        DataError: there are no rows.
        NumericalError: a row holds NaN or infinity; names its index.
        MissingExtraError: scikit-learn is not installed.
    """
    if not len(embeddings):
        raise DataError("there is nothing to cluster", found="no rows", do="bring data")
    wanted = DEFAULT_CANDIDATES if config.candidates is None else tuple(sorted(set(config.candidates)))
    min_rows = max(config.choose_min_size, config.min_size)
    floor = Floor(len(embeddings), min_rows, 0 if n_tokens is None else config.min_tokens)
    with one_thread():
        n_axes = max(N_AXES, 2 * wanted[-1])
        space = search_space(embeddings, n_rows=config.choose_sample, n_axes=n_axes, seed=seed)
        tried, notes = _possible(wanted, space, floor, config)
        lengths = None if n_tokens is None else n_tokens[space.places]
        trials = make_trials(space, lengths, n_resamples=config.n_resamples, seed=seed)
        points = []
        for done, k in enumerate((1, *tried)):
            points.append(measure(trials, k, floor))
            if step is not None:
                step(done + 1, len(tried) + 1)
    said = suggestions(points)
    return NClustersRecord(
        n_clusters=said[config.rule],
        rule=config.rule,
        reasons=reasons(points, config.rule, n_rows=len(embeddings), too_few=_too_few(space, floor)),
        structure=has_structure(points),
        suggestions=said,
        points=tuple(points),
        n_rows=len(embeddings),
        sample_size=len(space.rows),
        n_held_out=len(trials.held_out),
        n_resamples=config.n_resamples,
        n_axes=space.rows.shape[1],
        variance_kept=space.variance_kept,
        notes=notes,
    )


def _too_few(space: SearchSpace, floor: Floor) -> str:
    if space.n_distinct == 1:
        return f"{len(space.rows):,} sampled rows are all alike"
    return f"{floor.n_rows:,} rows are too few to split into clusters of {floor.min_rows:,} or more"


def _possible(
    wanted: tuple[int, ...], space: SearchSpace, floor: Floor, config: ClusterConfig
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The candidates that the rows allow, and a note on the others."""
    # Not tried: what cannot have clusters of the least size, or would leave none of its resamples that many rows.
    most = min(floor.n_rows // floor.min_rows, space.n_distinct, len(space.rows) // 2)
    tried = tuple(k for k in wanted if k <= most)
    left_out = [k for k in wanted if k > most]
    if not left_out:
        return tried, ()
    facts = f"{floor.n_rows:,} rows, {space.n_distinct:,} distinct in a sample of {len(space.rows):,}"
    if not tried and config.candidates is not None:
        raise ConfigError(
            "there are too few rows for every candidate",
            where="cluster.candidates",
            found=f"{facts}; candidates {', '.join(map(str, wanted))}",
            expected=f"{floor.min_rows} rows or more for each cluster (cluster.choose_min_size, cluster.min_size)",
            do="bring more data, lower cluster.choose_min_size, or set cluster.n_clusters to a number",
        )
    numbers = ", ".join(map(str, left_out))
    note = f"not tried for too few rows: {numbers} ({facts}; {floor.min_rows} or more for each cluster)"
    return tried, (note,)
