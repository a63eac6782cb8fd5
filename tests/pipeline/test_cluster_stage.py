"""The cluster stage on real text: what each setting leaves in the folder, and what is refused before training."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tclora.clustering import load_clusters
from tclora.config import load_config
from tclora.data import Example, Turn, read_examples, write_examples
from tclora.data.quickstart import quickstart_examples
from tclora.errors import ConfigError
from tclora.models import load_base, tokenize_example
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.cluster import read_cluster_record, read_labels
from tclora.pipeline.stages.example_lengths import example_lengths


@pytest.fixture
def config_path(tmp_path) -> Path:
    tasks = quickstart_examples(seed=0, n_train=6, n_dev=2, n_held_out=1)
    write_examples(tmp_path / "train.jsonl", tasks.train)
    write_examples(tmp_path / "dev.jsonl", tasks.dev)
    settings = {
        "output": str(tmp_path / "run"),
        "base": {"path": "bundled", "threads": 1, "max_length": 64},
        "data": {"train": [str(tmp_path / "train.jsonl")], "dev": [str(tmp_path / "dev.jsonl")]},
        "encode": {"dim": 8},
        "cluster": {"n_clusters": 3, "n_init": 2, "count": "words", "map": "none"},
        "merge": [{"method": "mean"}],
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def cluster(path: Path, *overrides: str):
    config = load_config(path, overrides)
    run_pipeline(config, until="cluster")
    run = RunFolder(Path(config.output))
    return run, read_cluster_record(run)


def members(run: RunFolder, part: str, k: int) -> list[list[Example]]:
    return [read_examples([run.cluster / f"cluster-{i}.{part}.jsonl"], allow_empty=True) for i in range(k)]


@pytest.mark.parametrize("algorithm", ["kmeans", "task", "random", "agglomerative"])
def test_every_example_is_in_the_file_of_its_cluster(config_path, algorithm):
    run, record = cluster(config_path, f"cluster.algorithm={algorithm}")
    assert record.algorithm == load_clusters(run.cluster).algorithm == algorithm
    for part in ("train", "dev"):
        labels, rows = read_labels(run, part), read_examples([run.data / f"{part}.jsonl"])
        for index, found in enumerate(members(run, part, record.n_clusters)):
            assert found == [row for row, label in zip(rows, labels, strict=True) if label == index]
    assert [c.n_train for c in record.clusters] == np.bincount(read_labels(run, "train")).tolist()


def test_dev_examples_go_where_their_task_is(config_path):
    run, record = cluster(config_path, "cluster.algorithm=task")
    groups = load_clusters(run.cluster).groups
    for example, label in zip(read_examples([run.data / "dev.jsonl"]), read_labels(run, "dev"), strict=True):
        assert {example.task, example.family} & set(groups[label])
    assert record.dev_assignment == "by task, else nearest centroid"


def test_dev_examples_of_random_clusters_are_dealt_out(config_path):
    _, record = cluster(config_path, "cluster.algorithm=random")
    sizes = np.array([c.n_train for c in record.clusters])
    dev = np.array([c.n_dev for c in record.clusters])
    assert np.abs(dev - sizes * dev.sum() / sizes.sum()).max() < 1
    assert record.dev_assignment.startswith("at random")


def test_dissolved_clusters_leave_fewer_files_and_the_record_says_so(config_path):
    run, record = cluster(config_path, "cluster.n_clusters=6", "cluster.min_size=12")
    assert record.n_clusters < 6 and min(c.n_train for c in record.clusters) >= 12
    assert len(list(run.cluster.glob("cluster-*.train.jsonl"))) == record.n_clusters
    assert "were dissolved" in " ".join(record.notes)


def test_weights_for_clusters_that_were_dissolved_are_refused_before_training(config_path):
    overrides = ["cluster.n_clusters=6", "cluster.min_size=12", "merge.0.weights=[1, 1, 1, 1, 1, 1]"]
    with pytest.raises(ConfigError, match=r"6 weights for \d clusters"):
        cluster(config_path, *overrides)


def test_another_setting_of_the_sizes_makes_the_stage_again(config_path):
    first = cluster(config_path)[1]
    assert cluster(config_path, "cluster.balanced=true")[1] != first
    assert cluster(config_path)[1] == first


def test_a_stage_that_is_done_is_left_alone(config_path):
    run, _ = cluster(config_path)
    before = (run.cluster / "record.json").stat().st_mtime_ns
    cluster(config_path)
    assert (run.cluster / "record.json").stat().st_mtime_ns == before


def test_mbc_without_a_library_is_refused(config_path):
    with pytest.raises(ConfigError, match=r"(?s)an adapter for each task.*cluster\.library"):
        cluster(config_path, "cluster.algorithm=mbc")


def test_tokens_are_those_of_training(config_path):
    config = load_config(config_path, ["cluster.count=tokens"])
    long = Example("word " * 90, output="short answer", task="t")
    turns = (Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello."))
    plain = Example("", output="only text, with no question")
    examples = [long, Example("Now?", "what", "yes", history=turns), plain, Example("é" * 30, output="x " * 200)]
    base = load_base(config.base)
    lengths = example_lengths(config, examples)
    assert lengths.unit == "tokens"
    assert lengths.counts.tolist() == [len(tokenize_example(base, example).ids) for example in examples]


def test_a_tokenizer_that_cannot_be_read_leaves_words_and_says_so(config_path, tmp_path):
    (tmp_path / "empty").mkdir()
    override = f"base.path={tmp_path / 'empty'}"
    record = cluster(config_path, override, "cluster.count=auto")[1]
    assert record.token_unit == "words" and "counted in words" in record.notes[-1]
    with pytest.raises(ConfigError, match="cannot be read"):
        cluster(config_path, override, "cluster.count=tokens")


def test_counts_of_tokens_are_in_the_record(config_path):
    run, record = cluster(config_path, "cluster.count=auto")
    assert record.token_unit == "tokens"
    words = cluster(config_path)[1]
    assert sum(c.n_tokens for c in record.clusters) > sum(c.n_tokens for c in words.clusters)
    assert json.loads((run.cluster / "record.json").read_text())["token_unit"] == "words"
