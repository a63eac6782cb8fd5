"""The cluster map: rows and centroids in the plane, as data and as a picture.

In: the finished encode and cluster stages. Out: `map.json` and `map.svg`. A stage of its own, so that another picture
of the same clusters changes nothing that is trained on them. Refused: what `map_clusters` refuses.
"""

from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, write_bytes, write_json
from tclora.clustering import load_clusters, map_clusters
from tclora.config import RunConfig
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.cluster import read_cluster_record, read_labels
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.records import ClusterMapRecord, from_json, to_json
from tclora.reporting import cluster_map_svg

__all__ = ["cluster_map_stage", "read_cluster_map"]


def cluster_map_stage(
    config: RunConfig, run: RunFolder, encode: Manifest, cluster: Manifest, progress: Progress
) -> Manifest | None:
    """Draw the clusters; None where the settings ask for no map."""
    method = config.cluster.map
    if method == "none":
        return None
    inputs = {"encode": inputs_digest(encode), "cluster": inputs_digest(cluster)}
    stage = Stage("cluster map", run.cluster_map, {"map": method}, inputs, config.seed)
    return run_stage(stage, lambda folder: _draw(config, run, folder, progress), progress)


def read_cluster_map(config: RunConfig, run: RunFolder) -> ClusterMapRecord | None:
    """The map of the finished stage; None where there is none."""
    if config.cluster.map == "none":
        return None
    return from_json(ClusterMapRecord, read_json(run.cluster_map / "map.json"))


def _draw(config: RunConfig, run: RunFolder, folder: Path, progress: Progress) -> None:
    rows = np.load(run.encode / "train.npy", mmap_mode="r", allow_pickle=False)
    centroids = load_clusters(run.cluster).centroids
    found = map_clusters(rows, read_labels(run, "train"), centroids, method=config.cluster.map, seed=config.seed)
    for note in found.notes:
        progress.note(f"cluster map: {note}")
    write_json(folder / "map.json", to_json(found))
    write_bytes(folder / "map.svg", cluster_map_svg(found, read_cluster_record(run)).encode())
