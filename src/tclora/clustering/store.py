"""A cluster model on disk: `centroids.npy`, and `clusters.json` with its two numbers. Nothing is pickled."""

import io
from pathlib import Path

import numpy as np

from tclora.artifacts import read_json, write_bytes, write_json
from tclora.clustering.kmeans import ClusterModel
from tclora.errors import ArtifactError

__all__ = ["load_clusters", "save_clusters"]

_FACTS, _ARRAY = "clusters.json", "centroids.npy"


def save_clusters(model: ClusterModel, folder: Path) -> None:
    """Write the model into a folder, made if it is missing; equal models give equal bytes."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(model.centroids), allow_pickle=False)
    write_bytes(folder / _ARRAY, stream.getvalue())
    facts = {"n_clusters": len(model.centroids), "sample_size": model.sample_size, "inertia": model.inertia}
    write_json(folder / _FACTS, facts)


def load_clusters(folder: Path) -> ClusterModel:
    """The model that `save_clusters` wrote, bit for bit.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    facts = read_json(folder / _FACTS)
    try:
        # Mapped first: a header that claims more than the file holds then fails without taking memory.
        centroids = np.array(np.load(folder / _ARRAY, mmap_mode="r", allow_pickle=False))
        matches = centroids.dtype == np.float32 and centroids.ndim == 2 and len(centroids) == facts["n_clusters"]
        sample_size, inertia = int(facts["sample_size"]), float(facts["inertia"])
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, SyntaxError, MemoryError) as error:
        raise _damaged(folder, str(error)) from None
    if not matches or not np.isfinite(centroids).all():
        raise _damaged(folder, f"centroids of shape {centroids.shape}, {centroids.dtype}")
    return ClusterModel(centroids, sample_size, inertia)


def _damaged(folder: Path, found: str) -> ArtifactError:
    return ArtifactError("a cluster model cannot be read", where=folder, found=found, do="run the cluster stage again")
