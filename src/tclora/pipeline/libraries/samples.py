"""A sample of each cluster's training rows: what "as far as its own examples" is measured on.

In: a run, or a library. Out: at most `SAMPLE_ROWS` embeddings of each cluster, evenly spaced over its training
examples, and distances. They are read from the run's embeddings where those still fit, and otherwise made again with
the stored encoder. Refused: a stored sample that is damaged.
"""

from pathlib import Path

import numpy as np

from tclora.errors import ArtifactError
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.libraries.index import Library, LibraryEntry
from tclora.shapes import Float, Int

__all__ = [
    "SAMPLE_ROWS",
    "Samples",
    "distances_to",
    "load_sample",
    "mixed_sample",
    "neighbor_distances",
    "run_samples",
    "save_sample",
    "spaced",
]

SAMPLE_ROWS = 2000
"""Of each cluster: its 99th percentile then rests on 20 rows, and neighbors of new rows are found in seconds."""
_CHUNK = 2048

Samples = dict[int, np.ndarray]


def run_samples(run: RunFolder) -> Samples:
    """The sample of each cluster of a run, in float32; empty where the embeddings are not there or do not fit."""
    rows_file, labels_file = run.encode / "train.npy", run.cluster / "train_labels.npy"
    if not rows_file.is_file() or not labels_file.is_file():
        return {}
    labels = np.load(labels_file, allow_pickle=False)
    rows = np.load(rows_file, mmap_mode="r", allow_pickle=False)
    if rows.ndim != 2 or len(rows) != len(labels):
        return {}
    return {int(index): _of(rows, np.flatnonzero(labels == index)) for index in np.unique(labels)}


def spaced(n: int) -> Int[np.ndarray, " s"]:
    """At most `SAMPLE_ROWS` places out of `n`, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE_ROWS)).astype(np.int64)) if n else np.empty(0, np.int64)


def mixed_sample(
    old: Float[np.ndarray, "s d_embed"], n_old: int, new: Float[np.ndarray, "n d_embed"]
) -> Float[np.ndarray, "t d_embed"]:
    """The sample of a cluster of `n_old` rows that `new` ones join: each part in its share."""
    if len(old) + len(new) <= SAMPLE_ROWS:
        return np.concatenate([old, new]).astype(np.float32)
    n_kept = min(len(old), round(SAMPLE_ROWS * n_old / (n_old + len(new))))
    kept = old[np.linspace(0, len(old) - 1, n_kept).astype(np.int64)]
    joined = new[np.linspace(0, len(new) - 1, min(len(new), SAMPLE_ROWS - n_kept)).astype(np.int64)]
    return np.concatenate([kept, joined]).astype(np.float32)


def save_sample(path: Path, rows: Float[np.ndarray, "s d_embed"]) -> None:
    """Write the sample of one cluster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ascontiguousarray(rows, dtype=np.float32), allow_pickle=False)


def load_sample(library: Library, entry: LibraryEntry) -> Float[np.ndarray, "s d_embed"] | None:
    """The sample that the entry names, or None where it names none.

    Raises:
        ArtifactError: the file is damaged.
    """
    if entry.sample is None:
        return None
    path = library.root / entry.sample
    try:
        rows = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError("the sample of a cluster cannot be read", where=path, found=error) from None
    if rows.ndim != 2 or rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise ArtifactError("the sample of a cluster is damaged", where=path, found=f"{rows.shape} of {rows.dtype}")
    return rows


def distances_to(
    rows: Float[np.ndarray, "n d_embed"], centroids: Float[np.ndarray, "k d_embed"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Euclidean distance of each row to the centroid of its label, in float32."""
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        apart = np.asarray(rows[part], dtype=np.float64) - centroids[labels[part]]
        found[part] = np.sqrt((apart**2).sum(axis=1))
    return found


def neighbor_distances(
    rows: Float[np.ndarray, "n d_embed"], others: Float[np.ndarray, "m d_embed"], *, themselves: bool = False
) -> Float[np.ndarray, " n"]:
    """Euclidean distance of each row to the nearest of the others, in float32; infinite where there is none.

    Args:
        themselves: `rows` are the others, and no row is its own neighbor.
    """
    found = np.full(len(rows), np.inf, dtype=np.float32)
    if not len(others):
        return found
    squares = (others.astype(np.float64) ** 2).sum(axis=1)
    for start in range(0, len(rows), _CHUNK):
        part = np.asarray(rows[start : start + _CHUNK], dtype=np.float32)
        apart = (part.astype(np.float64) ** 2).sum(axis=1)[:, None] + squares - 2.0 * (part @ others.T)
        if themselves:
            apart[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        found[start : start + _CHUNK] = np.sqrt(np.maximum(apart.min(axis=1), 0))
    return found


def _of(rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    return np.asarray(rows[members[spaced(len(members))]], dtype=np.float32)
