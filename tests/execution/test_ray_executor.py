"""Jobs on Ray: a cluster of one node, the contract with its nodes, and what happens without them.

The slow tests stand up several nodes on this machine with Ray's own test cluster, and take one away.
"""

import importlib.util
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from jobs_for_workers import (
    Job,
    Notes,
    attempt,
    attempts_of,
    count_slowly,
    count_up,
    place,
    square,
    threads_of_torch,
    working_directory,
)

from tclora.errors import ConfigError, JobFailedError, MissingExtraError
from tclora.execution import Executor, RayExecutor, Request, Retries
from tclora.execution.contract import new_contract
from tclora.execution.dispatch import Finished
from tclora.execution.ray_cluster import import_ray

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
QUICK = Retries(2, pause_s=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def ray_here(folder, ray_token):
    """One node, started for these tests and gone after them. Its workers can import the jobs of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield from start_ray(folder)


def start_ray(folder: Path):
    with RayExecutor(Request("local", folder, workers=2, threads=1, gpus=False), QUICK) as executor:
        yield executor


@needs_ray
def test_results_come_in_order(ray_here):
    assert isinstance(ray_here, Executor)
    assert ray_here.workers == 2
    assert list(ray_here.map(square, list(range(10)))) == [value**2 for value in range(10)]


@needs_ray
@pytest.mark.slow
def test_jobs_run_elsewhere_with_their_threads(ray_here):
    assert os.getpid() not in {p["pid"] for p in ray_here.map(place, [0, 1])}
    assert list(ray_here.map(threads_of_torch, [0])) == [1]


@needs_ray
@pytest.mark.parametrize("fault", ["kill", pytest.param("value", marks=pytest.mark.slow)])
def test_a_job_is_tried_again_and_the_reason_told(ray_here, tmp_path, fault):
    jobs = [Job(str(i), str(tmp_path), fault if i == 1 else "", fails=int(i == 1), value=i) for i in range(3)]
    notes = Notes()
    assert list(ray_here.map(attempt, jobs, watcher=notes)) == [0, 1, 2]
    assert [attempts_of(job) for job in jobs] == [1, 2, 1]
    reason = {"kill": "its worker or node was lost", "value": "ValueError: planted fault"}[fault]
    assert len(notes.notes) == 1 and notes.notes[0].startswith(f"1: {reason}")


@needs_ray
def test_a_wrong_request_passes_as_it_is(ray_here, tmp_path):
    job = Job("a", str(tmp_path), "config", fails=9)
    with pytest.raises(ConfigError, match="planted fault"):
        list(ray_here.map(attempt, [job]))
    assert attempts_of(job) == 1


@needs_ray
@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_given_up(ray_here, tmp_path):
    job = Job("cluster-4", str(tmp_path), "kill", fails=9)
    with pytest.raises(JobFailedError, match=r"failed 3 times: its worker or node was lost[\s\S]*cluster-4"):
        list(ray_here.map(attempt, [job]))


@needs_ray
@pytest.mark.slow
def test_the_last_step_reaches_the_driver(ray_here):
    notes = Notes()
    results = ray_here.as_completed(count_slowly, [4], watcher=notes)
    assert list(results) == [(0, 4)]
    assert ("slow count", 4, 4) in notes.steps


@needs_ray
def test_a_lost_progress_board_loses_progress_only(ray_here):
    from tclora.execution.ray_executor import _Tasks

    ray = import_ray()
    tasks = _Tasks(ray_here._connected(), 1, Notes())
    ray.kill(tasks._board.actor)
    tasks.submit(0, count_up, 5)
    events = []
    while not events:
        events = tasks.events(1.0)
    assert events == [Finished(0, 5)]
    assert tasks._board.news() == []


@needs_ray
def test_jobs_work_where_the_run_was_started(ray_here):
    assert list(ray_here.map(working_directory, [0])) == [str(Path.cwd())]


@needs_ray
def test_a_node_that_breaks_the_contract_is_refused_by_each_job(ray_here, tmp_path):
    """As a node that joins late would: the contract travels with the job."""
    cluster = ray_here._connected()
    with RayExecutor(Request("auto", tmp_path)) as late:
        late._cluster = replace(cluster, is_ours=False, contract=new_contract(tmp_path))
        for path in tmp_path.iterdir():
            path.unlink()
        tmp_path.rmdir()
        with pytest.raises(ConfigError, match=r"does not see the run's folder[\s\S]*every node mounts"):
            list(late.map(square, [1]))


@needs_ray
def test_a_cluster_without_room_for_a_job_is_refused(ray_here, tmp_path):
    executor = RayExecutor(Request("auto", tmp_path, threads=10_000))
    with pytest.raises(ConfigError, match=r"no node of the cluster has room[\s\S]*a node with 10000 CPUs"):
        list(executor.map(square, [1]))


@needs_ray
def test_the_handler_of_sigterm_stays_ours(ray_here):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
def test_no_cluster_is_refused_at_once_with_the_way_to_start_one(ray_here, tmp_path, monkeypatch, address):
    ray_here.close()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    executor = RayExecutor(Request(address, tmp_path))
    with pytest.raises(ConfigError, match=r"no Ray cluster can be reached[\s\S]*refused[\s\S]*ray start --head"):
        list(executor.map(square, [1]))


def test_a_missing_ray_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tclora\[ray\]'"):
        list(RayExecutor(Request("auto", tmp_path)).map(square, [1]))


def test_other_versions_are_refused_by_name(tmp_path):
    contract = new_contract(tmp_path)
    contract.check()
    other = replace(contract, versions={**contract.versions, "torch": "1.0"})
    with pytest.raises(ConfigError, match=r"other versions[\s\S]*found +torch [\d.]+[\s\S]*expected +torch 1.0"):
        other.check()


def test_another_folder_of_the_same_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tclora.execution.contract._PATIENCE_S", 0.0)
    contract = new_contract(tmp_path)
    (tmp_path / f".probe-{contract.token}").write_text("another cluster's")
    with pytest.raises(ConfigError, match="does not see the run's folder"):
        contract.check()


def test_a_base_that_differs_is_refused(tmp_path):
    base, shared = tmp_path / "base", tmp_path / "shared"
    base.mkdir()
    (base / "config.json").write_text("{}")
    contract = new_contract(shared, [base])
    contract.check()
    (base / "config.json").write_text('{"a": 1}')
    with pytest.raises(ConfigError, match=r"has not what the run reads[\s\S]*other files"):
        contract.check()


def test_what_a_node_writes_must_arrive(tmp_path, monkeypatch):
    monkeypatch.setattr("tclora.execution.contract._PATIENCE_S", 0.0)
    contract = new_contract(tmp_path)
    reply = contract.answer("node-1")
    contract.confirm(reply)
    Path(reply.wrote).unlink()
    with pytest.raises(ConfigError, match="does not arrive here"):
        contract.confirm(reply)


def test_a_new_contract_clears_the_files_of_the_old(tmp_path):
    old = new_contract(tmp_path)
    old.answer("node-1")
    new = new_contract(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".probe-{new.token}"]
    new.clear()
    assert list(tmp_path.iterdir()) == []
