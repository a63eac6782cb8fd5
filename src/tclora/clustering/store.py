"""A cluster model on disk: `centroids.npy`, and `clusters.json` with the rest of it. Nothing is pickled.

In: a `ClusterModel`, or a folder. Out: the same bytes for the same model, and the model again, bit for bit. A folder of
an earlier release, which knew k-means alone, is read too. Refused: files that are missing, damaged or do not agree.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from tclora.artifacts import read_json, write_bytes, write_json
from tclora.clustering.model import ClusterModel
from tclora.errors import ArtifactError

__all__ = ["load_clusters", "save_clusters"]

_FACTS, _ARRAY = "clusters.json", "centroids.npy"


def save_clusters(model: ClusterModel, folder: Path) -> None:
    """Write the model into a folder, made if it is missing; equal models give equal bytes."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(model.centroids), allow_pickle=False)
    write_bytes(folder / _ARRAY, stream.getvalue())
    facts = {
        "n_clusters": len(model.centroids),
        "sample_size": model.sample_size,
        "inertia": model.inertia,
        "algorithm": model.algorithm,
        "engine": model.engine,
        "groups": [list(group) for group in model.groups],
        "sizes": list(model.sizes),
        "notes": list(model.notes),
    }
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
        model = ClusterModel(centroids, **_fields(facts))
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, SyntaxError, MemoryError) as error:
        raise _damaged(folder, str(error)) from None
    if not matches or not np.isfinite(centroids).all():
        raise _damaged(folder, f"centroids of shape {centroids.shape}, {centroids.dtype}")
    if any(len(per_cluster) not in (0, len(centroids)) for per_cluster in (model.groups, model.sizes)):
        raise _damaged(folder, f"{len(model.groups)} groups and {len(model.sizes)} sizes of {len(centroids)} clusters")
    return model


def _fields(facts: Any) -> dict[str, Any]:
    return {
        "sample_size": int(facts["sample_size"]),
        "inertia": float(facts["inertia"]),
        "algorithm": str(facts.get("algorithm", "kmeans")),
        "engine": str(facts.get("engine", "scikit-learn")),
        "groups": tuple(tuple(str(task) for task in group) for group in facts.get("groups", ())),
        "sizes": tuple(int(size) for size in facts.get("sizes", ())),
        "notes": tuple(str(note) for note in facts.get("notes", ())),
    }


def _damaged(folder: Path, found: str) -> ArtifactError:
    return ArtifactError("a cluster model cannot be read", where=folder, found=found, do="run the cluster stage again")
