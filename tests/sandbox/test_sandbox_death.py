"""The jails die with their harness, also when it is killed with no chance to say so."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HARNESS = """
import sys
from tclora.sandbox import Limits, Sandbox, run_many
sandbox = Sandbox(Limits(wall_s=300.0, cpu_s=300), backend=sys.argv[1])
loops = ["while True: pass", "import time\\ntime.sleep(300)"]
print("ready", flush=True)
list(run_many([lambda text=text: sandbox.run_solution(text) for text in loops], workers=2))
"""


def started_at(pid: int) -> str | None:
    """The start time of a living process, which with its id names it for good; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def descendants(pid: int) -> dict[int, str]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = {}, [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            if (begun := started_at(child)) is not None:
                found[child] = begun
                waiting.append(child)
    return found


def alive(processes: dict[int, str]) -> list[int]:
    return [pid for pid, begun in processes.items() if started_at(pid) == begun]


def survivors_of_a_kill(backend: str, delay_s: float, n_expected: int) -> tuple[dict[int, str], list[int]]:
    """Kill a harness that has two jails; the processes it had, and those that live one second later."""
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, backend], stdout=subprocess.PIPE, text=True)
    assert harness.stdout is not None
    assert harness.stdout.readline() == "ready\n"
    end = time.monotonic() + 30
    had: dict[int, str] = {}
    while len(had) < n_expected and time.monotonic() < end:
        time.sleep(0.01)
        had |= descendants(harness.pid)
    time.sleep(delay_s)
    had |= descendants(harness.pid)
    os.kill(harness.pid, signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    end = time.monotonic() + 1.0
    while alive(had) and time.monotonic() < end:
        time.sleep(0.02)
    return had, alive(had)


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_nothing_outlives_the_harness(sandbox, backend, delay_s):
    # Two jails: bubblewrap has two processes of its own around each program.
    had, left = survivors_of_a_kill(backend, delay_s, n_expected=6 if backend == "bubblewrap" else 2)
    assert len(had) >= 2
    assert left == []


def test_the_watcher_sees_what_does_outlive():
    """A child that is told nothing of its parent's death is seen to live on: so the test above can fail."""
    text = "import subprocess, sys, time\nsubprocess.Popen(['sleep', '20'])\nprint('x', flush=True)\ntime.sleep(20)"
    parent = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    had = descendants(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    left = alive(had)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 1


def test_nothing_is_left_after_a_run(sandbox):
    before = descendants(os.getpid())
    for text in ("def solution(): return 1", "import os\nos._exit(0)", "1/0"):
        sandbox.run_solution(text)
    assert set(descendants(os.getpid())) <= set(before)


def test_no_descriptor_is_gained(sandbox):
    sandbox.run_solution("def solution(): return 1")
    before = sorted(os.listdir("/proc/self/fd"))
    for text in ("def solution(): return 1", "import os\nos._exit(0)", "def solution(:", "1/0"):
        sandbox.run_solution(text)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
def test_nothing_outlives_the_harness_at_fifty_times(sandbox, backend):
    most = 6 if backend == "bubblewrap" else 2
    found = [survivors_of_a_kill(backend, delay_s=n * 0.004, n_expected=n % (most + 1))[1] for n in range(25)]
    assert found == [[]] * 25
