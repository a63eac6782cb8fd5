"""A library trained on several nodes, one of which is lost: Ray's own test cluster on this machine."""

import importlib.util
import os
from pathlib import Path

import pytest

from tclora.config import BaseModelConfig, TrainConfig
from tclora.data import write_examples
from tclora.data.quickstart import quickstart_examples
from tclora.execution import LocalExecutor, RayExecutor, Request, Retries
from tclora.pipeline.stages.train_groups import train_jobs
from tclora.training import TrainJob

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]


class Notes:
    """A progress that remembers, and may do something at a step."""

    def __init__(self, at_step=None):
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.at_step = at_step

    def begin(self, stage: str) -> None:
        pass

    def step(self, label: str, done: int, total: int) -> None:
        self.steps.append((label, done, total))
        if self.at_step:
            self.at_step(label, done, total)

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


class InTwoGroups(LocalExecutor):
    """This process alone, with the groups that two workers would get."""

    @property
    def workers(self) -> int:
        return 2


@pytest.fixture
def cluster(monkeypatch, ray_token):
    """A head that takes no jobs, and two nodes of one CPU."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def jobs_in(folder: Path, data: Path, n_jobs: int = 4) -> list[TrainJob]:
    params = TrainConfig(r=2, lr=1e-3, batch_size=4, epochs=50, max_steps=60, checkpoint_every=5)
    base = BaseModelConfig(path="bundled", threads=1, max_length=64, device="cpu")
    return [
        TrainJob(f"cluster-{i}", base, str(data / f"{i}.jsonl"), None, str(folder / f"cluster-{i}"), params, seed=0)
        for i in range(n_jobs)
    ]


def write_data(folder: Path, n_jobs: int = 4) -> Path:
    examples = quickstart_examples(seed=0, n_train=8, n_dev=1, n_held_out=1).train
    folder.mkdir()
    for index in range(n_jobs):
        write_examples(folder / f"{index}.jsonl", examples[index::n_jobs])
    return folder


def adapters(folder: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*/adapter_*"))}


def test_a_node_lost_in_the_middle_changes_no_byte(cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    data, lost = write_data(tmp_path / "data"), []

    def lose_a_node(label: str, done: int, total: int) -> None:
        if not lost and 5 < done < total:
            lost.append((label, done))
            cluster.remove_node(nodes[0], allow_graceful=False)

    notes = Notes(lose_a_node)
    request = Request(cluster.address, tmp_path / "ray", workers=2, threads=1, gpus=False)
    with RayExecutor(request, Retries(3, pause_s=0.5)) as executor:
        records = train_jobs(jobs_in(tmp_path / "ray", data), executor, notes)
    assert [record.name for record in records] == [f"cluster-{index}" for index in range(4)]
    assert lost and any("worker or node was lost" in note for note in notes.notes)
    here = train_jobs(jobs_in(tmp_path / "here", data), InTwoGroups(), Notes())
    assert records == here
    assert adapters(tmp_path / "ray") == adapters(tmp_path / "here")
    assert len(adapters(tmp_path / "here")) == 8
    assert not list((tmp_path / "ray").glob(".probe-*"))
