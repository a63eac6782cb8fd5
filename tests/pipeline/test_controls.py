"""Controls: what they are trained on, that they are scored by their own groups, and that nothing mixes them up."""

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_run import small_config

from tclora.adapters import read_adapter
from tclora.config import RunConfig, load_config
from tclora.config.schema import TrainConfig
from tclora.data import Example, read_examples, write_examples
from tclora.errors import DataError
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Silent
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.control_groups import OTHER_TASKS, shuffled, task_groups_of
from tclora.pipeline.stages.control_jobs import equal_parameters

CONTROLS = ["multi_task", "multi_task_equal_parameters", "random_clusters", "per_task"]
MERGES = [{"method": "mean", "weights": "size"}, {"method": "svd", "params": {"rank": 2}, "weights": [0.5, 0.5]}]


def controlled(folder: Path, **changes) -> RunConfig:
    train = {"r": 2, "lr": 1e-3, "batch_size": 8, "epochs": 1, "controls": CONTROLS, "min_task_size": 9}
    config = load_config(small_config(folder, train=train | changes, merge=MERGES), [])
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    rows = [
        Example(f"{task} number {i}", output=f"{task} {i % 3}", task=f"family/{task}")
        for task, n in (("alpha beta", 12), ("gamma", 10), ("small", 4), ("tiny", 2))
        for i in range(n)
    ]
    config = controlled(folder)
    write_examples(folder / "train.jsonl", rows)
    unknown = [Example("gamma number 99", output="gamma 0", task="family/unseen")]
    write_examples(folder / "dev.jsonl", rows[::3] + unknown)
    result = run_pipeline(config)
    return config, RunFolder(result.folder), result.report


def names_in(run: RunFolder, control: str, part: str) -> list[list[str]]:
    files = sorted((run.controls / "data" / control).glob(f"*.{part}.jsonl"))
    return [[e.instruction for e in read_examples([str(path)], allow_empty=True)] for path in files]


def test_random_clusters_have_the_sizes_of_the_clusters_and_other_members(finished):
    _, run, _ = finished
    for part in ("train", "dev"):
        random = names_in(run, "random-clusters", part)
        files = [run.cluster / f"cluster-{i}.{part}.jsonl" for i in range(2)]
        clusters = [[e.instruction for e in read_examples([str(path)])] for path in files]
        assert [len(group) for group in random] == [len(group) for group in clusters]
        assert sorted(itertools.chain(*random)) == sorted(itertools.chain(*clusters))
    assert [set(group) for group in random] != [set(group) for group in clusters]


def test_random_clusters_see_as_many_tokens_as_the_library(finished):
    _, _, report = finished
    tokens = {record.name: record.n_tokens for record in report.training}
    library = sum(n for name, n in tokens.items() if name.startswith("cluster-"))
    assert sum(n for name, n in tokens.items() if name.startswith("random-clusters")) == library
    assert sum(n for name, n in tokens.items() if name.startswith("per-task")) == library
    # The budget of the multi-task adapters ends inside a batch, which is then left out.
    for name in ("multi-task", "multi-task-equal-parameters"):
        assert library / 2 < tokens[name] <= library


def test_every_task_has_an_adapter_and_small_ones_share_one(finished):
    _, run, _ = finished
    groups = json.loads((run.controls / "groups.json").read_text())["per-task"]
    assert groups["adapters"] == ["family-alpha-beta", "family-gamma", OTHER_TASKS]
    assert groups["tasks"] == {"family/alpha beta": 0, "family/gamma": 1, "family/small": 2, "family/tiny": 2}
    members = names_in(run, "per-task", "train")
    assert [len(group) for group in members] == [12, 10, 6]
    assert [{name.split(" ")[0] for name in group} for group in members] == [{"alpha"}, {"gamma"}, {"small", "tiny"}]


def test_a_dev_example_of_an_unseen_task_goes_to_the_nearest(finished):
    _, run, _ = finished
    assert "gamma number 99" in names_in(run, "per-task", "dev")[1]


def test_the_equal_parameter_adapter_has_the_parameters_of_the_library(finished):
    _, run, _ = finished

    def n_parameters(folder):
        return sum(shape.r * (shape.d_in + shape.d_out) for shape in read_adapter(folder).shapes.values())

    library = sum(n_parameters(run.library / f"cluster-{index}") for index in range(2))
    assert n_parameters(run.controls / "multi-task-equal-parameters") == library


def test_no_control_lies_in_the_library(finished):
    _, run, _ = finished
    assert {path.name for path in run.library.iterdir() if path.is_dir()} == {"cluster-0", "cluster-1", "multi-task"}


def test_contestants_and_pairs(finished):
    _, _, report = finished
    kinds = {c.name: (c.kind, c.n_adapters) for c in report.evaluation.contestants}
    assert kinds == {
        "base": ("base", 0),
        "cluster-0": ("adapter", 1),
        "cluster-1": ("adapter", 1),
        "routed library": ("routed", 2),
        "mean": ("merged", 1),
        "svd": ("merged", 1),
        "multi-task": ("multi_task", 1),
        "random-clusters routed": ("control", 2),
        "random-clusters mean": ("control", 1),
        "random-clusters svd": ("control", 1),
        "per-task routed": ("control", 3),
        "per-task mean": ("control", 1),
        "multi-task-equal-parameters": ("control", 1),
    }
    pairs = {(pair.first, pair.second): pair for pair in report.evaluation.paired}
    assert ("routed library", "random-clusters routed") in pairs
    assert ("mean", "per-task mean") in pairs and ("mean", "multi-task") in pairs
    assert ("svd", "per-task svd") not in pairs


def test_paired_differences_are_differences_of_the_losses(finished):
    _, _, report = finished
    found = {c.name: c for c in report.evaluation.contestants}
    for pair in report.evaluation.paired:
        first, second = found[pair.first], found[pair.second]
        assert pair.loss.value == pytest.approx(first.loss.value - second.loss.value, abs=1e-9)
        assert pair.loss.n == report.evaluation.n_dev and pair.loss.low <= pair.loss.value <= pair.loss.high
        for name, score in pair.loss_by_cluster.items():
            expected = first.loss_by_cluster[name].value - second.loss_by_cluster[name].value
            assert score.value == pytest.approx(expected, abs=1e-9)


def test_the_routed_control_answers_by_its_own_groups(finished):
    """Independent of the evaluation: each group's dev loss, as its own training measured it, weighted by tokens."""
    _, run, report = finished
    from tclora.models import load_base, tokenize_example

    base = load_base(finished[0].base)
    routed = next(c for c in report.evaluation.contestants if c.name == "random-clusters routed")
    records = [
        json.loads((run.controls / "random-clusters" / f"random-{i}" / "record.json").read_text()) for i in (0, 1)
    ]
    files = [run.controls / "data" / "random-clusters" / f"random-{i}.dev.jsonl" for i in (0, 1)]
    weights = [sum(tokenize_example(base, e).n_scored for e in read_examples([str(path)])) for path in files]
    expected = np.average([record["dev_loss"] for record in records], weights=weights)
    # The forward passes differ in batch and in how the update is added: float32 rounding.
    assert routed.loss.value == pytest.approx(expected, rel=1e-4)


def test_the_report_names_what_was_compared(finished):
    _, run, _ = finished
    text = (run.report / "report.md").read_text()
    assert "## Paired comparison" in text
    assert "Random clusters of the same sizes" not in text.split("## What this does not show")[1]
    assert "random-clusters routed" in text
    assert "svd has one weight for each cluster" in text


def test_a_second_run_does_nothing(finished):
    config, run, _ = finished
    stamps = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    run_pipeline(config)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()} == stamps


def test_dropping_controls_removes_them_and_leaves_the_library(finished, tmp_path):
    config, whole, _ = finished
    shutil.copytree(whole.root, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    library = {path: path.stat().st_mtime_ns for path in run.library.rglob("*") if path.is_file()}
    for controls in (("random_clusters",), ()):
        train = config.train.model_copy(update={"controls": controls})
        run_pipeline(config.model_copy(update={"train": train, "output": str(run.root)}), until="merge")
        if controls:
            assert {path.name for path in run.controls.iterdir() if path.is_dir()} == {"data", "random-clusters"}
            assert {path.name for path in run.merge_controls.iterdir()} == {"random-clusters"}
    assert not run.controls.exists() and not run.merge_controls.exists()
    assert {path: path.stat().st_mtime_ns for path in run.library.rglob("*") if path.is_file()} == library


def test_with_bounded_steps_the_tokens_are_shared_out(tmp_path):
    config = controlled(tmp_path, controls=["random_clusters"], max_steps=2, multi_task=False)
    run = RunFolder(run_pipeline(config, until="train").folder)
    tokens = Counter()
    for path in [*run.library.glob("*/record.json"), *run.controls.rglob("record.json")]:
        record = json.loads(path.read_text())
        tokens[record["name"].split("-")[0]] += record["n_tokens"]
    # Each of the two budgets ends inside a batch at most.
    assert tokens["cluster"] / 2 <= tokens["random"] <= tokens["cluster"]


class Stop(KeyboardInterrupt):
    """As a person stops a run: not tried again."""


class Interrupting(Silent):
    """Stops the run in the middle of training the adapter of this name."""

    def __init__(self, name: str):
        self.name = name

    def step(self, label: str, done: int, total: int) -> None:
        if label == self.name and done == 1:
            raise Stop


@pytest.mark.slow
def test_a_run_interrupted_in_a_control_ends_with_the_same_bytes(finished, tmp_path):
    config, run, _ = finished
    again = config.model_copy(update={"output": str(tmp_path / "again")})
    with pytest.raises(Stop):
        run_pipeline(again, progress=Interrupting("random-clusters random-1"))
    assert not (tmp_path / "again" / "controls" / "manifest.json").exists()
    run_pipeline(again, until="merge")
    files = [path.relative_to(run.root) for path in run.root.rglob("adapter_model.safetensors")]
    assert len(files) == 14
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (run.root / path).read_bytes(), path


def test_shuffling_keeps_the_counts_and_depends_on_seed_and_use_alone():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    first = shuffled(labels, seed=0, use="dev")
    assert sorted(first) == sorted(labels) and not np.array_equal(first, labels)
    assert np.array_equal(first, shuffled(labels, seed=0, use="dev"))
    assert not np.array_equal(first, shuffled(labels, seed=1, use="dev"))
    assert not np.array_equal(first, shuffled(labels, seed=0, use="train"))


@pytest.mark.parametrize("tasks", [[""] * 6, ["a/1", "a/2"] * 3])
def test_tasks_that_cannot_be_groups_are_refused_before_training(tmp_path, tasks):
    config = controlled(tmp_path, controls=["per_task"])
    rows = [Example(f"Do {i}", output=f"{i}", task=task) for i, task in enumerate(tasks * 3)]
    write_examples(tmp_path / "train.jsonl", rows)
    changed = config.train.model_copy(update={"min_task_size": 100})
    with pytest.raises(DataError, match=r"per_task has no task to train on[\s\S]*at least 100"):
        run_pipeline(config.model_copy(update={"train": changed}))
    assert not (tmp_path / "run" / "library").exists()


def test_names_of_tasks_make_distinct_folders(tmp_path):
    run = RunFolder(tmp_path)
    tasks = ["a/b", "a b", "A-B", "../up", "other-tasks", ""]
    rows = [Example(f"{i}", output="x", task=task) for task in tasks for i in range(3)]
    for part in ("train", "dev"):
        write_examples(run.data / f"{part}.jsonl", rows)
        run.encode.mkdir(exist_ok=True)
        np.save(run.encode / f"{part}.npy", np.eye(len(rows), 8, dtype=np.float32))
    groups = task_groups_of(run, min_size=3)
    assert len({name.casefold() for name in groups.names}) == len(groups.names) == 6
    assert all("/" not in name and not name.startswith(".") for name in groups.names)
    assert groups.names[-1] == OTHER_TASKS and groups.tasks[""] == 5


@pytest.mark.parametrize("rslora", [False, True])
def test_equal_parameters_keep_the_scale(rslora):
    params = TrainConfig(r=4, lora_alpha=8, use_rslora=rslora, rank_pattern={"q": 2}, alpha_pattern={"v": 3})
    grown = equal_parameters(params, 5)
    root = 0.5 if rslora else 1
    assert (grown.r, grown.rank_pattern) == (20, {"q": 10})
    assert grown.lora_alpha / grown.r**root == pytest.approx(8 / 4**root)
    assert grown.alpha_pattern["v"] / grown.r**root == pytest.approx(3 / 4**root)


def test_the_old_key_and_the_list_are_one_setting():
    assert TrainConfig(multi_task=True) == TrainConfig(controls=["multi_task"], multi_task=True) == TrainConfig()
    assert TrainConfig(controls=["per_task", "per_task"]).controls == ("per_task",)
    with pytest.raises(ValueError, match="drop one of the two"):
        TrainConfig(controls=["multi_task"], multi_task=False)
