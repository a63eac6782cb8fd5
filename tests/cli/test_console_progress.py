"""Progress in plain lines: speed and time left, from what was done since it was first heard of."""

import pytest

from tclora.cli.console import PlainProgress, progress_for, stop_bars


def test_the_terminal_is_given_back_however_the_command_ends(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bars = progress_for(quiet=False)
    bars.begin("merge")
    bars.step("merge", 1, 5)
    stop_bars()
    drawn = capsys.readouterr().err
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tclora.cli.console.time.monotonic", lambda: now[0])
    return now


def test_speed_and_time_left_do_not_count_what_was_done_before(clock, capsys):
    progress = PlainProgress(every_s=10.0)
    progress.step("train texts", 5000, 6000)
    clock[0] += 20
    progress.step("train texts", 5100, 6000)
    # 100 texts in 20 s, and 900 to go.
    assert capsys.readouterr().err == "  train texts: 5100/6000, 5/s, about 180 s left\n"


def test_jobs_that_take_turns_are_each_timed_from_their_own_start(clock, capsys):
    progress = PlainProgress(every_s=10.0)
    for step in range(1, 5):
        for label, rate in (("shard 1", 10), ("shard 2", 20)):
            progress.step(label, rate * step, 1000)
        clock[0] += 6
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  shard 1: 30/1000, 1.67/s, about 582 s left"
    assert lines[1] == "  shard 2: 60/1000, 3.33/s, about 282 s left"


def test_nothing_is_said_too_often_or_before_anything_moved(clock, capsys):
    progress = PlainProgress(every_s=10.0)
    for done in (0, 0, 0):
        progress.step("cluster-0", done, 9)
        clock[0] += 11
    for done in (1, 2, 3):
        progress.step("cluster-0", done, 9)
    assert len(capsys.readouterr().err.splitlines()) == 1
