"""A run gives the same adapters wherever its jobs run, and whatever is lost on the way."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from small_base import small_base

from tclora.adapters import read_adapter
from tclora.config import load_config
from tclora.data import write_examples
from tclora.data.quickstart import quickstart_examples
from tclora.errors import DataError
from tclora.execution import LocalExecutor, ProcessExecutor, Retries, plan_workers
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.train_groups import expected_work, train_jobs
from tclora.training import TrainJob

TWO_WORKERS = ["execution.executor=processes", "execution.workers=2", "execution.threads_per_worker=1"]


class Notes:
    """A progress that remembers, and may do something at a step."""

    def __init__(self, at_step=None):
        self.begun: list[str] = []
        self.ended: dict[str, bool] = {}
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.at_step = at_step

    def begin(self, stage: str) -> None:
        self.begun.append(stage)

    def step(self, label: str, done: int, total: int) -> None:
        self.steps.append((label, done, total))
        if self.at_step:
            self.at_step(label, done, total)

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        self.ended[stage] = skipped

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_config(folder: Path, base: str | None = None) -> Path:
    tasks = quickstart_examples(seed=0, n_train=3, n_dev=1, n_held_out=1)
    write_examples(folder / "train.jsonl", tasks.train)
    write_examples(folder / "dev.jsonl", tasks.dev)
    settings = {
        "output": str(folder / "run"),
        "base": {"path": base or small_base(), "threads": 1, "max_length": 96, "device": "cpu"},
        "data": {"train": [str(folder / "train.jsonl")], "dev": [str(folder / "dev.jsonl")]},
        "encode": {"dim": 8},
        "cluster": {"n_clusters": 4, "n_init": 2},
        "train": {"r": 2, "lr": 1e-3, "batch_size": 4, "max_steps": 3, "checkpoint_every": 1} | {"multi_task": False},
        "merge": [{"method": "mean"}, {"method": "svd", "params": {"rank": 4}}],
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def adapters(run: Path) -> dict[str, bytes]:
    files = [*run.glob("library/*/adapter_*"), *run.glob("library/*/job.json"), *run.glob("merge/*/adapter_*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(files)}


def keys(run: Path) -> dict[str, str]:
    found = sorted(run.rglob("manifest.json"))
    return {str(path.parent.relative_to(run)): json.loads(path.read_text())["key"] for path in found}


class InTwoGroups(LocalExecutor):
    """This process alone, with the groups that two workers would get."""

    @property
    def workers(self) -> int:
        return 2


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tclora.pipeline.run.executor_for", lambda config, run: InTwoGroups())
        run_pipeline(load_config(write_config(folder)), until="merge")
    return folder / "run"


def test_two_workers_give_the_bytes_and_the_keys_of_one(local, tmp_path):
    notes = Notes()
    run_pipeline(load_config(write_config(tmp_path), TWO_WORKERS), until="merge", progress=notes)
    assert adapters(tmp_path / "run") == adapters(local)
    assert len(adapters(local)) == 4 * 3 + 2 * 2
    assert keys(tmp_path / "run") == keys(local)
    assert {f"cluster-{index}" for index in range(4)} <= {label for label, done, total in notes.steps if done == total}
    assert {"merge mean", "merge svd"} <= set(notes.begun) & set(notes.ended)
    assert notes.notes == []
    assert multiprocessing.active_children() == []
    assert not list((tmp_path / "run").rglob("*.work"))


@pytest.mark.slow
def test_workers_killed_in_the_middle_change_no_byte(tmp_path):
    killed = []

    def kill_once(label: str, done: int, total: int) -> None:
        if not killed and label.startswith("cluster") and 2 <= done < total - 10:
            for worker in multiprocessing.active_children():
                killed.append(worker.pid)
                worker.kill()

    (tmp_path / "data").mkdir()
    # On the bundled base a step takes long enough to be killed in.
    steps = {"max_steps": 40, "epochs": 50.0, "checkpoint_every": 5}
    jobs = [make_job(tmp_path / "data", f"cluster-{i}", "bundled", **steps) for i in (0, 1)]
    moved = [replace(job, out=str(tmp_path / "killed" / job.name)) for job in jobs]
    whole = train_jobs(jobs, InTwoGroups(), Notes())
    notes = Notes(kill_once)
    with ProcessExecutor(plan_workers(2, 1, ()), Retries(2, pause_s=0.0)) as executor:
        assert train_jobs(moved, executor, notes) == whole
    assert len(killed) == 2
    assert any("killed by SIGKILL" in note and "trying again (1 of 2)" in note for note in notes.notes)
    for job, other in zip(jobs, moved, strict=True):
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (Path(job.out) / name).read_bytes() == (Path(other.out) / name).read_bytes()


@pytest.mark.slow
def test_another_grouping_changes_roundings_only(local, tmp_path):
    run_pipeline(load_config(write_config(tmp_path)), until="train")
    for index in range(4):
        ours, theirs = (read_adapter(run / "library" / f"cluster-{index}") for run in (tmp_path / "run", local))
        for name, module in ours.modules.items():
            other = theirs.modules[name].lora_b @ theirs.modules[name].lora_a
            # AdamW divides by the square root of tiny second moments and so enlarges float32 rounding over the steps.
            assert torch.linalg.norm(module.lora_b @ module.lora_a - other) < 1e-3 * torch.linalg.norm(other)


def test_another_executor_finds_everything_done(local):
    config = load_config(write_config(local.parent), TWO_WORKERS)
    before = keys(local)
    notes = Notes()
    run_pipeline(config, until="merge", progress=notes)
    assert all(notes.ended.values()) and set(notes.ended) >= {"train", "merge mean", "merge svd"}
    assert keys(local) == before


def make_job(folder: Path, name: str, base: str | None = None, **changes) -> TrainJob:
    config = load_config(write_config(folder, base))
    file = folder / "train.jsonl"
    params = config.train.model_copy(update=changes)
    return TrainJob(name, config.base, str(file), None, str(folder / name), params, seed=0)


def test_work_is_the_text_that_is_put_through(tmp_path):
    job = make_job(tmp_path, "a", max_steps=None, epochs=2.0)
    size = Path(job.train_file).stat().st_size
    assert expected_work(job) == 2 * size
    n_rows = len(Path(job.train_file).read_bytes().splitlines())
    assert expected_work(make_job(tmp_path, "a", max_steps=1, batch_size=3)) == pytest.approx(size * 3 / n_rows)


def test_work_of_missing_data_is_left_to_the_training_to_refuse(tmp_path):
    job = make_job(tmp_path, "a")
    Path(job.train_file).unlink()
    assert expected_work(job) == 0.0
    with pytest.raises(DataError, match="cannot be read"):
        train_jobs([job], LocalExecutor(), Notes())
