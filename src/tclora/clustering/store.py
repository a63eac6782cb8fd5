"""A cluster model on disk: `centroids.safetensors`, and `clusters.json` with its two numbers."""

from pathlib import Path

import numpy as np

from tclora.artifacts import read_json, write_bytes, write_json
from tclora.clustering.kmeans import ClusterModel
from tclora.errors import ArtifactError

__all__ = ["load_clusters", "save_clusters"]

_FACTS, _ARRAYS = "clusters.json", "centroids.safetensors"


def save_clusters(model: ClusterModel, folder: Path) -> None:
    """Write the model into a folder, made if it is missing; equal models give equal bytes."""
    from safetensors.numpy import save

    write_bytes(folder / _ARRAYS, save({"centroids": np.ascontiguousarray(model.centroids)}))
    facts = {"n_clusters": len(model.centroids), "sample_size": model.sample_size, "inertia": model.inertia}
    write_json(folder / _FACTS, facts)


def load_clusters(folder: Path) -> ClusterModel:
    """The model that `save_clusters` wrote, bit for bit.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    facts = read_json(folder / _FACTS)
    try:
        centroids = load((folder / _ARRAYS).read_bytes())["centroids"]
        model = ClusterModel(centroids, int(facts["sample_size"]), float(facts["inertia"]))
        matches = centroids.shape[0] == facts["n_clusters"] and centroids.ndim == 2 and np.isfinite(centroids).all()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, str(error)) from None
    if not matches:
        raise _damaged(folder, f"centroids of shape {centroids.shape}")
    return model


def _damaged(folder: Path, found: str) -> ArtifactError:
    return ArtifactError("a cluster model cannot be read", where=folder, found=found, do="run the cluster stage again")
