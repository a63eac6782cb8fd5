"""What is decided alike for all executors: which failures are tried again, in what order, in which groups."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs_for_workers import Job, Notes, attempt, attempts_of, count_up, square

from tclora.errors import ArtifactError, ConfigError, DataError, JobFailedError, NumericalError
from tclora.execution import Executor, LocalExecutor, Retries, balanced_groups, plan_workers, report
from tclora.execution.attempts import Failure, failure_of, name_of
from tclora.execution.dispatch import Event, Failed, Finished, run_jobs
from tclora.execution.executor import in_order


class Script:
    """A backend that plays a script: for each attempt of a job, what becomes of it. Latest started ends first."""

    def __init__(self, slots: int, script: dict[Any, list[str]]):
        self.slots, self.script, self.cancelled = slots, script, False
        self.started: list[Any] = []
        self.running: list[tuple[int, Any]] = []

    def submit(self, ticket: int, function: Callable[[Any], Any], job: Any) -> None:
        assert len(self.running) < self.slots
        self.started.append(job)
        self.running.append((ticket, job))

    def events(self, timeout_s: float) -> list[Event]:
        if not self.running:
            return []
        ticket, job = self.running.pop()
        outcome = self.script[job].pop(0) if self.script.get(job) else "done"
        if outcome == "done":
            return [Finished(ticket, job)]
        error = {"config": ConfigError("wrong"), "artifact": ArtifactError("locked")}.get(outcome)
        return [Failed(ticket, Failure(outcome, error=error, lost=outcome == "lost"))]

    def cancel(self) -> None:
        self.cancelled = True


def play(script: dict[Any, list[str]], jobs: list[Any], *, slots: int = 2, retries: int = 2):
    backend, notes = Script(slots, script), Notes()
    policy = Retries(retries, pause_s=0.0)
    return backend, notes, run_jobs(backend, square, jobs, retries=policy, watcher=notes)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConfigError("x"), False),
        (DataError("x"), False),
        (NumericalError("x"), False),
        (ArtifactError("x"), True),
        (JobFailedError("x"), True),
        (OSError("disk full"), True),
        (RuntimeError("CUDA error"), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_only_what_may_pass_is_tried_again(error, passes):
    assert failure_of(error).may_pass is passes


def test_pauses_double_up_to_a_minute():
    pauses = [Retries(9, pause_s=2.0).pause_after(number) for number in range(1, 9)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_negative_number_of_retries_is_refused():
    with pytest.raises(ConfigError, match="cannot be retried so often"):
        Retries(-1)


def test_every_job_ends_once_whatever_is_lost_on_the_way():
    backend, notes, results = play({1: ["lost", "lost"], 3: ["artifact"]}, [0, 1, 2, 3])
    assert sorted(results) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert sorted(backend.started) == [0, 1, 1, 1, 2, 3, 3]
    assert notes.notes.count("job 1: lost; trying again (1 of 2)") == 1
    assert any(note.startswith("job 3: artifact") for note in notes.notes)


def test_a_job_is_given_up_after_its_retries_and_the_rest_stops():
    backend, _, results = play({0: ["lost"] * 3}, list(range(50)), slots=1)
    with pytest.raises(JobFailedError, match=r"failed 3 times: lost[\s\S]*finished jobs are not repeated"):
        list(results)
    assert len(backend.started) < 10


def test_a_wrong_request_passes_as_it_is_and_stops_what_runs():
    backend, notes, results = play({1: ["config"]}, [0, 1], slots=2)
    with pytest.raises(ConfigError, match="wrong"):
        list(results)
    assert backend.cancelled
    assert notes.notes == []


def test_leaving_early_stops_what_runs():
    backend, _, results = play({}, [0, 1, 2])
    next(results)
    del results
    assert backend.cancelled


@given(st.permutations(range(7)))
def test_results_are_put_into_order(order):
    assert list(in_order(iter([(index, index * 10) for index in order]))) == [index * 10 for index in range(7)]


def test_order_does_not_hold_back_what_is_due():
    def completed():
        yield 0, "a"
        raise AssertionError("asked for more than was needed")

    assert next(in_order(completed())) == "a"


@given(st.lists(st.integers(0, 50).map(float), max_size=8), st.integers(1, 4))
def test_groups_hold_every_job_once_and_are_near_the_best(costs, n_groups):
    groups = balanced_groups(costs, n_groups)
    assert sorted(itertools.chain(*groups)) == list(range(len(costs)))
    assert all(groups) and len(groups) <= n_groups
    largest = max((sum(costs[index] for index in group) for group in groups), default=0.0)
    # Graham's bound for longest-processing-time-first.
    assert 3 * largest <= 4 * best_split(costs, n_groups)


def best_split(costs: list[float], n_groups: int) -> float:
    """The least possible largest load, by going through the jobs and keeping every reachable tuple of loads."""
    reachable = {(0.0,) * n_groups}
    for cost in costs:
        reachable = {
            tuple(sorted((*loads[:group], loads[group] + cost, *loads[group + 1 :])))
            for loads in reachable
            for group in range(n_groups)
        }
    return min(max(loads) for loads in reachable)


def test_jobs_of_unknown_cost_are_spread_evenly():
    assert sorted(map(len, balanced_groups([0.0] * 10, 3))) == [3, 3, 4]


def test_local_runs_in_order_and_tells(tmp_path):
    notes = Notes()
    with LocalExecutor() as executor:
        assert isinstance(executor, Executor)
        assert list(executor.map(square, [1, 2, 3])) == [1, 4, 9]
        assert list(executor.map(count_up, [3], watcher=notes)) == [3]
    assert notes.steps == [("count to 3", done, 3) for done in (1, 2, 3)]


def test_outside_of_a_job_nobody_is_told():
    report("nothing", 1, 2)


def test_local_tries_again_too(tmp_path):
    notes, job = Notes(), Job("a", str(tmp_path), "value", fails=2, value=7)
    assert list(LocalExecutor(Retries(2, pause_s=0.0)).map(attempt, [job], watcher=notes)) == [7]
    assert notes.notes[0] == "a: ValueError: planted fault; trying again (1 of 2)"


@pytest.mark.parametrize("fault", ["config", "numerical"])
def test_local_does_not_repeat_what_cannot_pass(tmp_path, fault):
    job = Job("a", str(tmp_path), fault, fails=1)
    with pytest.raises((ConfigError, NumericalError), match="planted fault"):
        list(LocalExecutor(Retries(5)).map(attempt, [job]))
    assert attempts_of(job) == 1


def test_a_local_failure_names_the_job_and_keeps_its_traceback(tmp_path):
    job = Job("cluster-3", str(tmp_path), "value", fails=1)
    with pytest.raises(JobFailedError, match=r"a job failed: ValueError[\s\S]*cluster-3[\s\S]*jobs_for_workers"):
        list(LocalExecutor().map(attempt, [job]))


def test_without_a_watcher_notes_go_to_the_log(tmp_path, caplog):
    list(LocalExecutor(Retries(1, pause_s=0.0)).map(attempt, [Job("a", str(tmp_path), "value", fails=1)]))
    assert [record.getMessage() for record in caplog.records] == ["a: ValueError: planted fault; trying again (1 of 1)"]


def test_a_group_is_called_by_its_members(tmp_path):
    jobs = (Job("a", str(tmp_path)), Job("b", str(tmp_path)))
    assert (name_of(jobs, 4), name_of(jobs[0], 4), name_of(3, 4), name_of((), 4)) == ("a, b", "a", "job 4", "job 4")


def test_each_worker_has_its_gpu_and_its_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("tclora.execution.devices.core_count", lambda: 16)
    plan = plan_workers(None, None, ("0", "1"))
    assert [e["CUDA_VISIBLE_DEVICES"] for e in plan.environments] == ["0", "1"]
    assert [e["OMP_NUM_THREADS"] for e in plan.environments] == ["8", "8"]
    shared = plan_workers(3, 2, ("4", "GPU-5"))
    assert [e["CUDA_VISIBLE_DEVICES"] for e in shared.environments] == ["4", "GPU-5", "4"]
    assert {e["OMP_NUM_THREADS"] for e in shared.environments} == {"2"}


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 2), (16, 4), (64, 16)])
def test_without_gpus_workers_share_the_cores(monkeypatch, cores, workers):
    monkeypatch.setattr("tclora.execution.devices.core_count", lambda: cores)
    plan = plan_workers(None, None, ())
    assert len(plan.environments) == workers
    assert all("CUDA_VISIBLE_DEVICES" not in environment for environment in plan.environments)


def test_a_thread_count_of_the_user_is_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert plan_workers(2, None, ()).environments == ({}, {})
