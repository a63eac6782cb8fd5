"""`n_clusters: auto` and the map in a run: what is stored, what is repeated when a setting changes, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tclora.artifacts import read_json
from tclora.cli.run import _summary, show_result
from tclora.config import ClusterConfig, load_config
from tclora.data import write_examples
from tclora.data.quickstart import quickstart_examples
from tclora.errors import ConfigError
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.cluster import read_cluster_record, read_labels
from tclora.records import ClusterMapRecord, from_json

N_TASKS = 14


@pytest.fixture
def config_path(tmp_path) -> Path:
    tasks = quickstart_examples(seed=0, n_train=20, n_dev=1, n_held_out=1)
    write_examples(tmp_path / "train.jsonl", tasks.train)
    write_examples(tmp_path / "dev.jsonl", tasks.dev)
    settings = {
        "output": str(tmp_path / "run"),
        "base": {"path": "bundled", "threads": 1, "max_length": 64},
        "data": {"train": [str(tmp_path / "train.jsonl")], "dev": [str(tmp_path / "dev.jsonl")]},
        "encode": {"dim": 32},
        "cluster": {"n_clusters": "auto", "candidates": [2, 6, N_TASKS, 17], "n_resamples": 4, "count": "words"},
        "merge": [{"method": "mean"}],
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


class Told:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.notes, self.steps, self.ended = [], [], {}

    def begin(self, stage: str) -> None:
        pass

    def step(self, label: str, done: int, total: int) -> None:
        self.steps.append((label, done, total))

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        self.ended[stage] = skipped

    def note(self, text: str) -> None:
        self.notes.append(text)


def cluster(path: Path, *overrides: str):
    config, told = load_config(path, overrides), Told()
    result = run_pipeline(config, until="cluster", progress=told)
    run = RunFolder(Path(config.output))
    return run, read_cluster_record(run), told, result


def test_the_number_is_chosen_told_and_stored(config_path, capsys):
    run, record, told, result = cluster(config_path)
    assert record.n_clusters == record.choice.n_clusters == N_TASKS
    assert sorted(set(read_labels(run, "train").tolist())) == list(range(N_TASKS))
    assert [point.n_clusters for point in record.choice.points] == [1, 2, 6, N_TASKS, 17]
    assert record.choice.points[2].smallest_tokens > 0
    assert [step for step in told.steps if step[0] == "choose k"][-1] == ("choose k", 5, 5)
    assert f"cluster: {record.choice.reasons}" in told.notes
    show_result(result, False)
    shown = capsys.readouterr().out
    assert "How many clusters" in shown and "K=14: stability" in " ".join(shown.split())
    summary = json.loads(json.dumps(_summary(result)))
    assert summary["n_clusters"] == N_TASKS and summary["choice"]["rule"] == "stability" and len(summary["sizes"]) == 14


def test_the_map_is_a_stage_of_its_own(config_path):
    few = ("cluster.n_clusters=3",)
    run, record, told, _ = cluster(config_path, *few)
    assert record.choice is None and told.ended["cluster map"] is False
    found = from_json(ClusterMapRecord, read_json(run.cluster_map / "map.json"))
    assert found.labels == tuple(read_labels(run, "train").tolist()) and len(found.centroid_x) == 3
    assert (run.cluster_map / "map.svg").read_text().startswith("<svg")
    before = {path: path.read_bytes() for path in (*run.cluster.iterdir(), *run.cluster_map.iterdir())}
    # Settings of a search that is not made, and other pictures, repeat nothing.
    _, _, again, _ = cluster(config_path, *few, "cluster.rule=gap", "cluster.n_resamples=3")
    assert again.ended["cluster"] and again.ended["cluster map"]
    _, _, without, _ = cluster(config_path, *few, "cluster.map=none")
    assert without.ended["cluster"] and "cluster map" not in without.ended
    assert before == {path: path.read_bytes() for path in before}
    run.clear()
    assert not run.cluster_map.exists()


def test_clusters_by_task_are_as_many_as_task_labels(config_path):
    _, record, _, _ = cluster(config_path, "cluster.algorithm=task")
    assert record.choice is None and f"one cluster for each of {record.n_clusters} task labels" in record.notes
    assert all(len(summary.tasks) == 1 for summary in record.clusters)


def test_clusters_from_adapters_need_a_number(config_path, tmp_path):
    (tmp_path / "adapters").mkdir()
    with pytest.raises(ConfigError, match=r"(?s)mbc cannot be chosen from the embeddings.*set cluster\.n_clusters"):
        cluster(config_path, "cluster.algorithm=mbc", f"cluster.library={tmp_path / 'adapters'}")


def test_data_without_structure_are_one_cluster(config_path, tmp_path):
    rows = np.random.default_rng(0).standard_normal((20 * N_TASKS + N_TASKS, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    _, record, told, _ = cluster(
        config_path, "encode.encoder=precomputed", f"encode.path={tmp_path / 'rows.npy'}", "cluster.candidates=[2,3]"
    )
    assert record.n_clusters == 1 and not record.choice.structure
    assert any("no structure was found" in note for note in told.notes)


@pytest.mark.parametrize(
    "settings",
    [
        {"candidates": []},
        {"candidates": [1]},
        {"rule": "best"},
        {"choose_sample": 5},
        {"n_resamples": 1},
        {"map": "tsne"},
        {"n_clusters": "automatic"},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ClusterConfig(**settings)
