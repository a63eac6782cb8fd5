"""The pipeline end to end on a small run: the same result whatever happens to it on the way."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from killer import forked
from small_base import small_base

from tclora.adapters import read_adapter
from tclora.config import RunConfig, load_config
from tclora.data import write_examples
from tclora.data.quickstart import quickstart_examples
from tclora.errors import ArtifactError, ConfigError
from tclora.pipeline.run import run_pipeline

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def small_config(folder: Path, **changes) -> Path:
    """Two clusters of a few rows, two optimizer steps each, on a tiny base: every stage does its whole work."""
    tasks = quickstart_examples(seed=0, n_train=3, n_dev=1, n_held_out=2)
    write_examples(folder / "held_out.jsonl", tasks.held_out)
    write_examples(folder / "train.jsonl", tasks.train)
    write_examples(folder / "dev.jsonl", tasks.dev)
    (folder / "choice.jsonl").write_text(
        "\n".join(
            json.dumps({"id": str(i), "context": "", "question": q, "choices": ["yes", "no"], "answer": i % 2})
            for i, q in enumerate(("Is water wet?", "Is fire cold?", "Is snow white?"))
        )
    )
    settings = {
        "name": "small",
        "output": str(folder / "run"),
        "base": {"path": small_base(), "threads": 1, "max_length": 128},
        "data": {"train": [str(folder / "train.jsonl")], "dev": [str(folder / "dev.jsonl")]}
        | {"held_out": [str(folder / "held_out.jsonl")]},
        "encode": {"dim": 8},
        "cluster": {"n_clusters": 2, "n_init": 2},
        "train": {"r": 2, "lr": 1e-3, "batch_size": 8, "epochs": 1, "max_steps": 3, "checkpoint_every": 1},
        "merge": [
            {"method": "tc_lora", "params": {"cp_rank": 2, "max_iter": 40, "n_starts": 1}},
            {"method": "mean", "weights": "size"},
        ],
        "evaluate": {
            "max_new_tokens": 4,
            "max_exact_match": 2,
            "n_bootstrap": 50,
            "choice_tasks": [{"path": str(folder / "choice.jsonl")}],
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def numbers(run: Path) -> dict[str, object]:
    """What must not depend on what happened on the way: figures, adapters, labels."""
    files = sorted(run.rglob("adapter_model.safetensors")) + sorted(run.rglob("*.npy"))
    figures = json.loads((run / "report" / "report.json").read_text())
    return {
        "evaluation": json.loads((run / "evaluate" / "record.json").read_text()),
        "held_out": json.loads((run / "evaluate" / "held_out.json").read_text()),
        "training": figures["training"],
        "clusters": figures["clusters"],
        "merges": [
            {k: m[k] for k in ("relative_error", "identity_error", "out_rank", "modules")} for m in figures["merges"]
        ],
        "files": {str(path.relative_to(run)): path.read_bytes() for path in files},
    }


def tclora(folder: Path, limit: int, *words: str) -> subprocess.CompletedProcess:
    return forked(folder / "run", limit, *words)


def leftovers(run: Path) -> list[str]:
    return [str(path) for path in run.rglob("*") if "partial" in path.name or path.name.endswith((".part", ".work"))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("unbroken")
    config = small_config(folder)
    done = tclora(folder, 0, "run", str(config), "--quiet")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.strip().split("\n")[-1])


def test_every_stage_leaves_its_folder(unbroken):
    run = unbroken[0] / "run"
    for name in ("data", "encode", "cluster", "library", "merge/tc_lora", "merge/mean", "evaluate", "report"):
        assert (run / name / "manifest.json").is_file(), name
    assert leftovers(run) == []


def test_the_report_holds_every_contestant(unbroken):
    report = json.loads((unbroken[0] / "run" / "report" / "report.json").read_text())
    names = [contestant["name"] for contestant in report["evaluation"]["contestants"]]
    assert names == ["base", "cluster-0", "cluster-1", "routed library", "tc_lora", "mean", "multi-task"]


def test_every_figure_has_a_sample_size_and_an_interval(unbroken):
    report = json.loads((unbroken[0] / "run" / "report" / "report.json").read_text())
    for contestant in report["evaluation"]["contestants"]:
        for score in (contestant["loss"], contestant["exact_match"], contestant["choice_accuracy"]["choice"]):
            assert score["n"] > 0
            assert score["low"] <= score["value"] <= score["high"]


def test_unseen_tasks_are_scored_apart(unbroken):
    report = json.loads((unbroken[0] / "run" / "report" / "report.json").read_text())
    assert report["held_out"]["n_dev"] == 4
    assert len(report["held_out"]["contestants"]) == len(report["evaluation"]["contestants"])
    assert "unseen tasks, loss (n=4)" in (unbroken[0] / "run" / "report" / "report.md").read_text()


def test_the_multi_task_control_saw_as_many_tokens_as_the_library(unbroken):
    training = json.loads((unbroken[0] / "run" / "report" / "report.json").read_text())["training"]
    library = sum(record["n_tokens"] for record in training if record["name"] != "multi-task")
    control = next(record["n_tokens"] for record in training if record["name"] == "multi-task")
    # One batch more or less: the budget ends inside a batch.
    assert abs(control - library) <= library / 3


def test_a_merged_folder_is_an_adapter_with_its_card(unbroken):
    folder = unbroken[0] / "run" / "merge" / "tc_lora"
    assert read_adapter(folder).shapes
    assert "TC-LoRA" in (folder / "README.md").read_text() or "tc_lora" in (folder / "README.md").read_text()


def test_a_second_run_changes_no_byte(unbroken, tmp_path):
    shutil.copytree(unbroken[0] / "run", tmp_path / "before")
    done = tclora(unbroken[0], 0, "run", str(unbroken[0] / "run.yaml"), "--quiet")
    assert done.returncode == 0, done.stderr
    after = {p.relative_to(unbroken[0] / "run"): p.read_bytes() for p in files_of(unbroken[0] / "run")}
    before = {p.relative_to(tmp_path / "before"): p.read_bytes() for p in files_of(tmp_path / "before")}
    assert after == before


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_killed_again_and_again_it_ends_with_the_same_numbers(unbroken, tmp_path):
    """kill -9 at ever another change; each restart goes on from what is there."""
    changes = unbroken[1]["changes"]
    config = small_config(tmp_path)
    step, deaths = max(5, changes // 7), 0
    for _ in range(20):
        done = tclora(tmp_path, step, "run", str(config), "--quiet")
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        deaths += 1
    else:
        pytest.fail("the run made no progress between kills")
    assert deaths >= 5
    assert numbers(tmp_path / "run") == numbers(unbroken[0] / "run")
    assert leftovers(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["encode", "cluster", "train", "merge", "evaluate"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_inside_a_stage_it_ends_with_the_same_numbers(unbroken, tmp_path, stage, share):
    """The stages before are brought up unbroken; the kill comes at a share of the stage's own changes."""
    order = ["encode", "cluster", "train", "merge", "evaluate"]
    config = small_config(tmp_path)
    if stage != "encode":
        before = tclora(tmp_path, 0, order[order.index(stage) - 1], str(config), "--quiet")
        assert before.returncode == 0, before.stderr
    copy = tmp_path / "copy"
    if (tmp_path / "run").exists():
        shutil.copytree(tmp_path / "run", copy)
    whole = json.loads(tclora(tmp_path, 0, stage, str(config), "--quiet").stdout.strip().split("\n")[-1])["changes"]
    shutil.rmtree(tmp_path / "run")
    if copy.exists():
        copy.rename(tmp_path / "run")
    assert tclora(tmp_path, max(1, int(whole * share)), stage, str(config), "--quiet").returncode == -9
    done = tclora(tmp_path, 0, "run", str(config), "--quiet")
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path / "run") == numbers(unbroken[0] / "run")


@pytest.fixture
def copied(unbroken, tmp_path) -> Path:
    """A finished run to change, with its config."""
    shutil.copytree(unbroken[0], tmp_path / "copy")
    path = tmp_path / "copy" / "run.yaml"
    path.write_text(path.read_text().replace(str(unbroken[0]), str(tmp_path / "copy")))
    return tmp_path / "copy"


def times(folder: Path) -> dict[str, int]:
    stages = ("data", "encode", "cluster", "library/cluster-0", "merge/mean", "evaluate")
    return {s: (folder / "run" / s).stat().st_mtime_ns for s in stages}


def test_a_moved_run_is_not_repeated_where_nothing_changed(copied):
    before = times(copied)
    run_pipeline(load_config(copied / "run.yaml"), until="cluster")
    after = times(copied)
    assert {s: after[s] for s in ("data", "encode", "cluster")} == {s: before[s] for s in ("data", "encode", "cluster")}


@pytest.mark.parametrize("damage", ["empty", "flip", "delete"])
@pytest.mark.parametrize("name", ["data/train.jsonl", "encode/train.npy", "cluster/train_labels.npy"])
def test_a_damaged_file_of_a_stage_is_made_again(copied, unbroken, name, damage):
    path = copied / "run" / name
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else content[:-1] + bytes([content[-1] ^ 1]))
    run_pipeline(load_config(copied / "run.yaml"), until="cluster")
    assert path.read_bytes() == content


def test_a_changed_merge_leaves_the_library_alone(copied):
    before = times(copied)
    config = load_config(copied / "run.yaml", ["merge.1.scale=2.0"])
    run_pipeline(config, until="merge")
    after = times(copied)
    assert after["library/cluster-0"] == before["library/cluster-0"]
    assert json.loads((copied / "run/merge/mean/merge.json").read_text())["scale"] == 2.0


def test_a_wrong_merge_is_refused_before_any_work(tmp_path):
    config = load_config(small_config(tmp_path), ["merge.0.params.cp_rnk=3"])
    with pytest.raises(ConfigError, match="did you mean 'cp_rank'"):
        run_pipeline(config)
    assert not (tmp_path / "run").exists()


def test_two_runs_on_one_folder_are_refused(copied):
    from tclora.artifacts import folder_lock

    with folder_lock(copied / "run"), pytest.raises(ArtifactError, match="another run"):
        run_pipeline(load_config(copied / "run.yaml"))


def test_overwriting_removes_only_what_a_run_writes(tmp_path):
    from tclora.pipeline.layout import RunFolder

    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "data").mkdir()
    RunFolder(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_quickstart_settings_are_settings(tmp_path):
    from tclora.pipeline.quickstart import quickstart_config

    config = quickstart_config(tmp_path)
    assert isinstance(config, RunConfig)
    assert {merge.method for merge in config.merge} == {"tc_lora", "svd", "mean"}
