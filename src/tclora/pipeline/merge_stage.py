"""The merge stage of a run: one PEFT folder for each entry of the config's `merge` list."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from tclora.adapters import read_adapter
from tclora.artifacts import Manifest, read_json
from tclora.config import MergeConfig, RunConfig
from tclora.errors import ConfigError
from tclora.merging import merge_adapters, parse_params
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stage import Stage, inputs_digest, run_stage
from tclora.pipeline.write_merged import RECORD_NAME, write_merged
from tclora.records import ClusterRecord, MergeRecord, from_json

__all__ = ["check_weights", "merge_stage", "read_merge_records"]


def merge_stage(
    config: RunConfig, run: RunFolder, library: Manifest, clusters: ClusterRecord, progress: Progress
) -> tuple[Manifest, ...]:
    """Merge the library by every method of the config."""
    return tuple(_merge(config, merge, run, library, clusters, progress) for merge in config.merge)


def read_merge_records(config: RunConfig, run: RunFolder) -> tuple[MergeRecord, ...]:
    """The records of the finished merges, in the order of the config."""
    folders = (run.merge / merge.label for merge in config.merge)
    return tuple(from_json(MergeRecord, read_json(folder / RECORD_NAME)) for folder in folders)


def check_weights(merge: MergeConfig, n_clusters: int) -> None:
    """Refuse a list of weights that is not one per cluster."""
    if len(merge.weights) != n_clusters:
        raise ConfigError(
            "the weights do not match the clusters",
            where=f"merge '{merge.label}'",
            found=f"{len(merge.weights)} weights for {n_clusters} clusters",
            expected="one weight per cluster, in cluster order",
            do="give as many, or `uniform` or `size`",
        )


def _merge(
    config: RunConfig,
    merge: MergeConfig,
    run: RunFolder,
    library: Manifest,
    clusters: ClusterRecord,
    progress: Progress,
) -> Manifest:
    sizes = [cluster.n_train for cluster in clusters.clusters]
    inputs = {"library": inputs_digest(library), "sizes": str(sizes)}
    # Defaults count as settings: a release that changes one must not leave the old merge in place.
    settings = merge.model_dump(mode="json") | {"params": asdict(cast(Any, parse_params(merge.method, merge.params)))}
    stage = Stage(f"merge {merge.label}", run.merge / merge.label, settings, inputs, config.seed)
    return run_stage(stage, lambda folder: _build(config, merge, run, sizes, folder, progress), progress)


def _build(
    config: RunConfig, merge: MergeConfig, run: RunFolder, sizes: list[int], folder: Path, progress: Progress
) -> None:
    adapters = [read_adapter(run.library / cluster_name(index)) for index in range(len(sizes))]
    result = merge_adapters(
        adapters,
        merge.method,
        params=merge.params,
        adapter_weights=_weights(merge, sizes),
        scale=merge.scale,
        name=merge.label,
        on_progress=lambda done, total: progress.step(f"merge {merge.label}", done, total),
    )
    command = f"tclora run ({config.name}, merge '{merge.label}')"
    write_merged(result, folder, dtype=merge.dtype, out=merge.label, command=command)


def _weights(merge: MergeConfig, sizes: list[int]) -> tuple[float, ...] | None:
    if merge.weights == "uniform":
        return None
    if merge.weights == "size":
        return tuple(size / sum(sizes) for size in sizes)
    check_weights(merge, len(sizes))
    return tuple(merge.weights)
