"""A clustering in the plane: a sample of the rows and the centroids, by two principal axes or by UMAP.

In: embeddings, labels, centroids. Out: a `ClusterMapRecord`, coordinates to four digits. A picture for people: nothing
is decided by it. Two axes show little of 64 or more; how much is in `variance_shares`. Refused: `umap` where
umap-learn is not installed.

Source: McInnes, Healy and Melville 2018, arXiv 1802.03426 (UMAP).
"""

import warnings

import numpy as np

from tclora.clustering.rows import gather_rows
from tclora.clustering.search_space import principal_axes
from tclora.clustering.short_runs import one_thread
from tclora.errors import MissingExtraError
from tclora.records import ClusterMapRecord
from tclora.shapes import Float, Int

__all__ = ["map_clusters"]

N_SHOWN = 2000
# UMAP looks at 15 neighbors; with fewer rows than twice that it draws little but noise.
_UMAP_FROM = 30
# As is usual before UMAP: neighbors in the leading axes are those of the whole, without the noise of the rest.
_UMAP_AXES = 50
_DIGITS = 4


def map_clusters(
    embeddings: Float[np.ndarray, "n d_embed"],
    labels: Int[np.ndarray, " n"],
    centroids: Float[np.ndarray, "k d_embed"],
    *,
    method: str,
    seed: int,
) -> ClusterMapRecord:
    """Draw at most 2,000 rows, in proportion to the sizes of their clusters, and put them in the plane.

    Raises:
        MissingExtraError: `umap`, and umap-learn is not installed.
    """
    places = np.arange(len(embeddings))
    if len(embeddings) > N_SHOWN:
        places = np.sort(np.random.default_rng(seed).choice(len(embeddings), N_SHOWN, replace=False))
    rows = gather_rows(embeddings, places).astype(np.float64)
    shares: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    if method == "umap" and len(rows) < _UMAP_FROM:
        method, notes = "pca", (f"drawn by pca: {len(rows)} rows are too few for UMAP",)
    with one_thread():
        if method == "umap":
            plane = _by_umap(np.concatenate([rows, centroids.astype(np.float64)]), seed)
            shown, middles = plane[: len(rows)], plane[len(rows) :]
        else:
            shown, middles, shares = _by_axes(rows, centroids.astype(np.float64), seed)
    return ClusterMapRecord(
        method=method,
        n_rows=len(embeddings),
        x=_rounded(shown[:, 0]),
        y=_rounded(shown[:, 1]),
        labels=tuple(labels[places].tolist()),
        centroid_x=_rounded(middles[:, 0]),
        centroid_y=_rounded(middles[:, 1]),
        variance_shares=shares,
        notes=notes,
    )


def _by_axes(
    rows: Float[np.ndarray, "s d"], centroids: Float[np.ndarray, "k d"], seed: int
) -> tuple[Float[np.ndarray, "s 2"], Float[np.ndarray, "k 2"], tuple[float, ...]]:
    center, axes, variances = principal_axes(rows, 2, seed=seed)
    total = float(rows.var(axis=0).sum())
    shares = tuple(round(float(v) / total, _DIGITS) for v in variances) if total > 0 else (0.0,) * len(variances)
    # A second axis of zeros where the embeddings have one only.
    padded = np.zeros((rows.shape[1], 2))
    padded[:, : axes.shape[1]] = axes
    return (rows - center) @ padded, (centroids - center) @ padded, shares


def _by_umap(rows: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    try:
        import umap
    except ImportError:
        raise MissingExtraError("cluster.map: umap needs umap-learn", do="pip install 'tclora[umap]'") from None
    center, axes, _ = principal_axes(rows, _UMAP_AXES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A seed and one thread: the same picture from the same rows.
        reducer = umap.UMAP(n_components=2, random_state=seed % 2**32, n_jobs=1)
        return np.asarray(reducer.fit_transform((rows - center) @ axes), dtype=np.float64)


def _rounded(values: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    # Adding zero makes -0.0 and 0.0 one.
    return tuple((np.round(values, _DIGITS) + 0.0).tolist())
