"""What a run would do, without doing it."""

from pathlib import Path

from tclora.artifacts import read_manifest
from tclora.config import RunConfig
from tclora.data import hold_out, read_examples, split_dev
from tclora.pipeline.checks.run_place import check_place
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.run import check_request
from tclora.pipeline.stages.cluster import read_cluster_record

__all__ = ["plan_run"]


def plan_run(config: RunConfig, *, until: str = "report") -> dict[str, object]:
    """Count examples and optimizer steps, and name the stages that already have a finished folder.

    Raises:
        TcLoraError: the data cannot be read, or a setting is wrong.
    """
    check_request(config, until)
    run = RunFolder(Path(config.output).expanduser())
    check_place(run)
    n_train, n_dev = _counts(config)
    folders = {"data": run.data, "encode": run.encode, "cluster": run.cluster, "train": run.library}
    folders |= {"evaluate": run.evaluate, "report": run.report}
    steps = int(n_train * config.train.epochs / config.train.batch_size)
    n_clusters = _n_clusters(config, run)
    if config.train.max_steps is not None and isinstance(n_clusters, int):
        steps = min(steps, config.train.max_steps * n_clusters)
    return {
        "until": until,
        "out": str(run.root),
        "base": config.base.path,
        "n_train": n_train,
        "n_dev": n_dev,
        "n_clusters": n_clusters,
        "optimizer_steps_about": steps * (1 + config.train.multi_task + len(config.train.controls)),
        "merges": [merge.label for merge in config.merge],
        "finished_stages": [name for name, folder in folders.items() if read_manifest(folder)],
    }


def _n_clusters(config: RunConfig, run: RunFolder) -> int | str:
    """The number of the settings; where that is `auto`, the number that was found, once it was."""
    if config.cluster.n_clusters == "auto" and read_manifest(run.cluster):
        return read_cluster_record(run).n_clusters
    return config.cluster.n_clusters


def _counts(config: RunConfig) -> tuple[int, int]:
    train = read_examples(config.data.train, format=config.data.format, fields=config.data.fields)
    if config.data.hold_out_sha1:
        train = hold_out(train, config.data.hold_out_sha1)
    if config.data.dev:
        dev = read_examples(config.data.dev, format=config.data.format, fields=config.data.fields)
    else:
        train, dev = split_dev(train, config.data.dev_fraction, seed=config.seed)
    limits = (config.data.max_train or len(train), config.data.max_dev or len(dev))
    return min(len(train), limits[0]), min(len(dev), limits[1])
