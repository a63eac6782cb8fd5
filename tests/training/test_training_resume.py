"""A training that is killed or whose checkpoints are damaged goes on to the same bytes.

The child processes are forked from a server that has everything imported and has never run a backward pass, so that one
kill point costs a training and not a start of Python.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import pytest
from forked import CONTEXT

from tclora.errors import ArtifactError
from tclora.training import train_adapter

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def child(job, kill_at, report):
    """Train; send SIGKILL to oneself at file-system event `kill_at` below the job's folder, or count the events."""
    events, folder = 0, os.path.dirname(job.out)

    def watch(event, arguments):
        nonlocal events
        if event not in WATCHED or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    import torch

    torch.set_num_threads(1)
    sys.addaudithook(watch)
    train_adapter(job)
    Path(report).write_text(str(events))


def run(job, report, kill_at=0):
    process = CONTEXT.Process(target=child, args=(job, kill_at, str(report)))
    process.start()
    process.join(120)
    return process.exitcode


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def with_out(job, name):
    return dataclasses.replace(job, out=str(Path(job.out).parent / name / "adapter"))


@pytest.fixture
def uninterrupted(job, tmp_path):
    assert run(with_out(job, "whole"), tmp_path / "events") == 0
    return content(with_out(job, "whole").out), int((tmp_path / "events").read_text())


def check_kill(job, tmp_path, kill_at, expected):
    one = with_out(job, f"killed-{kill_at}")
    assert run(one, tmp_path / "report", kill_at) == -signal.SIGKILL
    assert run(one, tmp_path / "report") == 0
    assert content(one.out) == expected
    assert [path.name for path in Path(one.out).parent.iterdir()] == ["adapter"]


def test_kill_at_spread_events(job, tmp_path, uninterrupted):
    expected, n_events = uninterrupted
    for kill_at in (1, n_events // 2, n_events):
        check_kill(job, tmp_path, kill_at, expected)


@pytest.mark.slow
def test_kill_at_every_event(job, tmp_path, uninterrupted):
    expected, n_events = uninterrupted
    assert n_events > 30
    for kill_at in range(1, n_events + 1):
        check_kill(job, tmp_path, kill_at, expected)


class Stop(Exception):
    pass


def interrupt_at(job, tiny, step):
    def stop(done, total):
        if done == step:
            raise Stop

    with pytest.raises(Stop):
        train_adapter(job, base=tiny, on_step=stop)


def first_step(job, tiny):
    """The first step a resumed training does; None where nothing is left to do."""
    seen = []
    train_adapter(job, base=tiny, on_step=lambda done, total: seen.append(done))
    return seen[0]


@pytest.mark.parametrize("step", [2, 3, 5, 9, 10])
def test_an_interrupted_training_goes_on_from_its_checkpoint(job, tiny, whole, step):
    interrupt_at(job, tiny, step)
    assert first_step(job, tiny) == step // 3 * 3 + 1
    assert content(job.out) == whole


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["delete", "empty", "halve", "flip"])
def test_a_damaged_checkpoint_does_not_count(job, tiny, whole, name, damage):
    interrupt_at(job, tiny, 7)
    path = Path(job.out + ".work") / "step-00000006" / name
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {"empty": b"", "halve": good[:middle], "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]}
    path.unlink() if damage == "delete" else path.write_bytes(bad[damage])
    assert first_step(job, tiny) == 4
    assert content(job.out) == whole


def test_checkpoints_of_another_job_do_not_count(job, tiny):
    interrupt_at(job, tiny, 7)
    assert first_step(dataclasses.replace(job, seed=1), tiny) == 1


def test_only_two_checkpoints_are_kept(job, tiny):
    interrupt_at(job, tiny, 10)
    folders = sorted(path.name for path in Path(job.out + ".work").glob("step-*"))
    assert folders == ["step-00000006", "step-00000009"]


def test_a_full_disk_is_no_success(job, tiny, whole, monkeypatch):
    real, left = os.fsync, [0]

    def full(descriptor):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for left[0] in (1, 4, 7, 15):
        with pytest.raises((OSError, ArtifactError), match="No space left"):
            train_adapter(job, base=tiny)
        assert not Path(job.out).exists()
    monkeypatch.undo()
    train_adapter(job, base=tiny)
    assert content(job.out) == whole


def test_two_processes_do_not_train_one_job(job, tiny):
    def second(done, total):
        with pytest.raises(ArtifactError, match="another run is using this folder"):
            train_adapter(job, base=tiny)
        raise Stop

    with pytest.raises(Stop):
        train_adapter(job, base=tiny, on_step=second)
