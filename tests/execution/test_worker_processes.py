"""Workers of this machine: their places, their deaths, and what their jobs say."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from jobs_for_workers import (
    Job,
    Notes,
    attempt,
    attempts_of,
    count_up,
    flood,
    not_picklable,
    place,
    slowly,
    square,
    threads_of_torch,
)

from tclora.errors import ConfigError, JobFailedError, NumericalError
from tclora.execution import Executor, ProcessExecutor, Retries, plan_workers

QUICK = Retries(2, pause_s=0.0)


@pytest.fixture(scope="module")
def pair():
    """Two workers that serve all tests of this file; a test that kills one leaves the other."""
    with ProcessExecutor(plan_workers(2, 1, ("7", "8")), QUICK) as executor:
        yield executor


def test_it_is_an_executor(pair):
    assert isinstance(pair, Executor)
    assert pair.workers == 2


def test_results_come_in_order(pair):
    assert list(pair.map(square, list(range(20)))) == [value**2 for value in range(20)]


def test_results_come_as_they_are_done(pair):
    done = [index for index, _ in pair.as_completed(slowly, [0.6, 0.0, 0.0])]
    assert done[-1] == 0 and sorted(done) == [0, 1, 2]


def test_each_worker_has_its_own_gpu_and_thread_count(pair):
    places = list(pair.map(place, [0, 1]))
    assert {p["CUDA_VISIBLE_DEVICES"] for p in places} == {"7", "8"}
    assert len({p["pid"] for p in places} - {os.getpid()}) == 2
    assert list(pair.map(threads_of_torch, [0])) == [1]


@pytest.mark.parametrize(("fault", "reason"), [("kill", "killed by SIGKILL"), ("exit", "ended with exit status 3")])
def test_a_dead_worker_costs_its_job_one_attempt_and_no_other_job(pair, tmp_path, fault, reason):
    jobs = [Job(str(i), str(tmp_path), fault if i == 1 else "", fails=int(i == 1), value=i) for i in range(4)]
    notes = Notes()
    assert list(pair.map(attempt, jobs, watcher=notes)) == [0, 1, 2, 3]
    assert [attempts_of(job) for job in jobs] == [1, 2, 1, 1]
    assert len(notes.notes) == 1 and reason in notes.notes[0] and "trying again (1 of 2)" in notes.notes[0]


def test_an_idle_worker_that_dies_is_replaced(pair):
    places = list(pair.map(place, [0, 1]))
    os.kill(int(str(places[0]["pid"])), signal.SIGKILL)
    time.sleep(0.2)
    assert list(pair.map(square, [1, 2, 3, 4])) == [1, 4, 9, 16]


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_given_up(pair, tmp_path):
    job = Job("cluster-4", str(tmp_path), "kill", fails=9)
    with pytest.raises(JobFailedError, match=r"failed 3 times: its worker was killed by SIGKILL[\s\S]*cluster-4"):
        list(pair.map(attempt, [job]))
    assert attempts_of(job) == 3


@pytest.mark.parametrize(("fault", "kind"), [("config", ConfigError), ("numerical", NumericalError)])
def test_errors_of_tclora_pass_as_they_are_and_are_not_repeated(pair, tmp_path, fault, kind):
    job = Job("a", str(tmp_path), fault, fails=9)
    with pytest.raises(kind, match="planted fault"):
        list(pair.map(attempt, [job]))
    assert attempts_of(job) == 1


def test_an_unforeseen_error_is_repeated_in_a_fresh_worker_and_keeps_its_traceback(pair, tmp_path):
    notes, job = Notes(), Job("a", str(tmp_path), "value", fails=9)
    with pytest.raises(JobFailedError, match=r"3 times: ValueError: planted fault[\s\S]*jobs_for_workers.py"):
        list(pair.map(attempt, [job], watcher=notes))
    assert [note for note in notes.notes if "ValueError: planted fault; trying again" in note] == notes.notes


def test_steps_reach_the_parent_and_the_last_always_does(pair):
    notes = Notes()
    list(pair.map(count_up, [1000, 500], watcher=notes))
    for total in (1000, 500):
        seen = [step for step in notes.steps if step[0] == f"count to {total}"]
        assert seen[0][1] == 1 and seen[-1][1:] == (total, total)
        assert len(seen) < 100  # throttled: a fast loop does not flood the pipe


def test_a_flood_that_nobody_reads_is_dropped_and_holds_up_nothing(pair):
    results = pair.as_completed(flood, [20_000, 20_000])
    start = time.monotonic()
    assert next(results)[1] == 20_000
    time.sleep(0.5)  # the other worker goes on while nobody listens
    assert next(results)[1] == 20_000
    # A blocked worker would never end; 60 s is far beyond what two loops of 20,000 need on any machine.
    assert time.monotonic() - start < 60


def test_leaving_early_ends_the_workers_at_once(tmp_path):
    with ProcessExecutor(plan_workers(1, 1, ()), QUICK) as executor:
        results = executor.as_completed(slowly, [0.0, 600.0])
        assert next(results) == (0, 0.0)
        start = time.monotonic()
    assert time.monotonic() - start < 30


def test_closed_and_used_again(pair):
    pair.close()
    pair.close()
    assert list(pair.map(square, [5])) == [25]


def test_what_cannot_be_pickled_is_refused_by_name(pair):
    with pytest.raises(JobFailedError, match=r"cannot be sent to a worker[\s\S]*<lambda>[\s\S]*top of a module"):
        list(pair.map(lambda value: value, [1]))
    with pytest.raises(JobFailedError, match="pickle"):
        list(pair.map(not_picklable, [1]))
    assert list(pair.map(square, [3])) == [9]


def test_failures_survive_pickling(pair):
    error = ConfigError("what", where="here", found=1, expected=2, do="that")
    assert pickle.loads(pickle.dumps(error)).facts() == error.facts()


@pytest.mark.slow
def test_an_unguarded_script_is_told_how_to_guard_itself(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        textwrap.dedent(
            """
            from operator import neg
            from tclora.execution import ProcessExecutor, Retries, plan_workers
            with ProcessExecutor(plan_workers(1, 1, ()), Retries(0)) as executor:
                print(list(executor.map(neg, [1])))
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "if __name__ == '__main__'" in done.stderr.split("JobFailedError")[-1]


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from jobs_for_workers import place, wait_long
            from tclora.execution import ProcessExecutor, plan_workers
            if __name__ == "__main__":
                with ProcessExecutor(plan_workers(2, 1, ())) as executor:
                    print(*[p["pid"] for p in executor.map(place, [0, 1])], flush=True)
                    list(executor.map(wait_long, [600.0, 600.0]))
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 30
    while any(is_running(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in workers)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_worker_module_is_light():
    """Whatever a worker imports before its environment is set must not load torch."""
    code = "import sys, tclora.execution.worker; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
