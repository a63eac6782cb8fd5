"""The clusters of an imported library: copied from the run that made them.

In: a run's `cluster` folder. Out: an index that names the copies of its clustering, encoder, settings, and of a
sample of each cluster's embeddings. Refused: a cluster folder that is not finished.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from tclora.artifacts import read_manifest
from tclora.errors import ArtifactError
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.libraries.index import LibraryIndex
from tclora.pipeline.libraries.samples import run_samples, save_sample

__all__ = ["copy_clusters"]


def copy_clusters(clusters: Path, out: Path) -> LibraryIndex:
    """Copy a run's clustering, its encoder, settings and samples into `out`.

    Raises:
        ArtifactError: the cluster stage is not finished.
    """
    manifest = read_manifest(clusters)
    if manifest is None:
        raise ArtifactError("the clusters are not finished", where=clusters, do="tclora cluster CONFIG")
    for name in manifest.outputs:
        (out / "cluster" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clusters / name, out / "cluster" / name)
    run = RunFolder(clusters.resolve().parent)
    index = LibraryIndex(format=1, adapters=(), cluster="cluster")
    if (run.root / "config.yaml").is_file():
        shutil.copyfile(run.root / "config.yaml", out / "config.yaml")
        index = replace(index, config="config.yaml")
    if (run.encode / "encoder").is_dir():
        shutil.copytree(run.encode / "encoder", out / "encode" / "encoder")
        index = replace(index, encoder="encode/encoder")
    for cluster, rows in run_samples(run).items():
        save_sample(out / "samples" / f"cluster-{cluster}.npy", rows)
    return index
