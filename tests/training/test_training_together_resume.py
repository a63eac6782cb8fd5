"""A group that is stopped or killed at any step goes on to the same bytes."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import pytest
from forked import CONTEXT
from group_cases import content, difference, made, made_jobs, moved, save_base

from tclora.models import load_base
from tclora.training import train_together

SAME_UPDATES = 1e-3  # see test_training_together


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three jobs of 8, 10 and 13 steps, their base, and the files of an unbroken training."""
    root = tmp_path_factory.mktemp("resume")
    folder = save_base(root / "base", made("llama"))
    jobs = made_jobs(folder, root, epochs=2, lora_dropout=0.1)
    base = load_base(jobs[0].base)
    records = train_together(jobs, base=base)
    assert [record.n_steps for record in records] == [8, 10, 13]
    return jobs, base, [content(job.out) for job in jobs]


def stop_after(n_calls, jobs, base):
    """Train; raise at the n-th step of any adapter. Returns how many adapters were finished by then."""
    calls = 0

    def stop(name, done, total):
        nonlocal calls
        calls += 1
        if calls == n_calls:
            raise Stop

    with pytest.raises(Stop):
        train_together(jobs, base=base, on_step=stop)
    return sum(Path(job.out).exists() for job in jobs)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# 3 adapters take 24 steps in their first 8 rounds; then one has left, and after 28 steps two.
@pytest.mark.parametrize(("n_calls", "n_finished"), [(2, 0), slow(14, 0), (26, 1), slow(30, 2)])
def test_a_stopped_group_goes_on_to_the_same_bytes(whole, tmp_path, n_calls, n_finished):
    jobs, base, expected = whole
    again = moved(jobs, tmp_path)
    assert stop_after(n_calls, again, base) == n_finished
    seen = []
    train_together(again, base=base, on_step=lambda name, done, total: seen.append(done))
    assert [content(job.out) for job in again] == expected
    # At most the steps since the last checkpoint, one every four, are done again.
    assert len(seen) <= 31 - n_calls + 3 * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(job.name for job in jobs)


def test_it_may_be_stopped_twice(whole, tmp_path):
    jobs, base, expected = whole
    again = moved(jobs, tmp_path)
    stop_after(17, again, base)
    stop_after(6, again, base)
    train_together(again, base=base)
    assert [content(job.out) for job in again] == expected


@pytest.mark.parametrize("victims", [(0,), (0, 1, 2)], ids=["one", "all"])
def test_damaged_checkpoints_cost_steps_and_no_bits(whole, tmp_path, victims):
    jobs, base, expected = whole
    again = moved(jobs, tmp_path)
    stop_after(26, again, base)
    for path in (path for index in victims for path in Path(again[index].out + ".work").glob("step-00000008/*.safe*")):
        path.write_bytes(path.read_bytes()[:-1])
    train_together(again, base=base)
    # The first was written at its eighth step, before the stop; the others go back to their fourth without it, and
    # passes without its rows may round differently.
    assert content(again[0].out) == expected[0]
    assert all(difference(*pair) < SAME_UPDATES for pair in zip(jobs, again, strict=True))


def test_with_other_companions_an_adapter_goes_on_to_the_same_updates(whole, tmp_path):
    jobs, base, _ = whole
    again = moved(jobs, tmp_path)
    stop_after(10, again[:2], base)
    seen = []
    train_together(again, base=base, on_step=lambda name, done, total: seen.append((name, done)))
    first = {name: min(done for other, done in seen if other == name) for name, _ in seen}
    assert first == {"cluster-0": 5, "cluster-1": 5, "cluster-2": 1}
    assert all(difference(*pair) < SAME_UPDATES for pair in zip(jobs, again, strict=True))


@pytest.mark.slow
def test_early_stopping_goes_on_with_its_history(whole, tmp_path):
    jobs, base, _ = whole
    params = jobs[0].params.model_copy(update={"patience": 2, "eval_every": 2, "lr": 0.1, "epochs": 3.0})
    jobs = [dataclasses.replace(job, params=params) for job in jobs]
    one, other = moved(jobs, tmp_path / "one"), moved(jobs, tmp_path / "other")
    train_together(one, base=base)
    stop_after(16, other, base)
    train_together(other, base=base)
    assert [content(job.out) for job in one] == [content(job.out) for job in other]


def child(jobs, kill_at, folder):
    """Train; SIGKILL oneself at file-system event `kill_at` below the folder, or count the events."""
    import sys

    import torch

    torch.set_num_threads(1)
    events = 0

    def watch(event, arguments):
        nonlocal events
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree"} and str(arguments[0]).startswith(
            folder
        ):
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train_together(jobs)
    Path(folder).with_suffix(".events").write_text(str(events))


def run(jobs, folder, kill_at=0):
    process = CONTEXT.Process(target=child, args=(jobs, kill_at, str(folder)))
    process.start()
    process.join(120)
    return process.exitcode


def check_kills(whole, tmp_path, points):
    jobs, _, expected = whole
    assert run(moved(jobs, tmp_path / "counted"), tmp_path / "counted") == 0
    n_events = int((tmp_path / "counted.events").read_text())
    for kill_at in points(n_events):
        folder = tmp_path / f"killed-{kill_at}"
        again = moved(jobs, folder)
        assert run(again, folder, kill_at) == -signal.SIGKILL
        assert run(again, folder) == 0
        assert [content(job.out) for job in again] == expected
        assert len(list(folder.iterdir())) == len(jobs)
        shutil.rmtree(folder)


def test_a_killed_group_goes_on_to_the_same_bytes(whole, tmp_path):
    check_kills(whole, tmp_path, lambda n: (2 * n // 3,))


@pytest.mark.slow
def test_killed_at_many_events(whole, tmp_path):
    check_kills(whole, tmp_path, lambda n: range(1, n + 1, max(1, n // 25)))
