"""The command's end: what an end owes is done, though nothing is taken apart."""

import json
import os
import signal
import subprocess
import sys

import pytest


def end(body: str, status: int = 0) -> subprocess.CompletedProcess:
    code = f"from tclora.cli.process import leave\n{body}\nleave({status})\nprint('after the end')"
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_status_is_kept_and_buffered_output_arrives(status):
    done = end("import sys; print('said'); sys.stderr.write('told')", status)
    assert (done.returncode, done.stdout, done.stderr) == (status, "said\n", "told")


def test_exit_functions_run_and_threads_are_waited_for(tmp_path):
    body = f"""
import atexit, threading, time
from pathlib import Path
def slow():
    time.sleep(0.2)
    Path({str(tmp_path / "thread")!r}).touch()
atexit.register(Path({str(tmp_path / "exit")!r}).touch)
threading.Thread(target=slow).start()
"""
    assert end(body).returncode == 0
    assert (tmp_path / "thread").exists() and (tmp_path / "exit").exists()


def test_idle_threads_of_an_executor_do_not_hold_it_up():
    body = "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2); pool.submit(print, 'done')"
    done = end(body)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_ends_the_command_after_it(number, tmp_path):
    """The making of an extension module swallows what a handler raises; here a module stands in for it."""
    body = (
        f"import os\ntry:\n    os.kill(os.getpid(), {int(number)}); sum(range(10**6))\nexcept BaseException:\n    pass"
    )
    (tmp_path / "swallows.py").write_text(body)
    code = f"""
import sys, time
from tclora.cli import app
sys.path.insert(0, {str(tmp_path)!r})
def work(**about):
    import swallows
    for _ in range(1000): time.sleep(0.01)
app.app = work
app.entry()
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 128 + number
    assert done.stderr.count("stopped by") == 1


@pytest.mark.parametrize("size", [5, 5_000])
@pytest.mark.parametrize(("status", "expected"), [(0, 1), (3, 3)])
def test_output_that_nobody_reads_shows_in_the_status(size, status, expected, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = f"from tclora.cli.process import leave\ntry: print('x' * {size})\nexcept OSError: pass\nleave({status})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == expected
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_told(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tclora", "tasks", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "could not be written" in done.stderr


def test_a_process_without_streams_does_its_work(tmp_path):
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        command = f"{sys.executable} -m tclora --version {closed}"
        assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("words", ["merge --no-such-flag", "merge nowhere -o /dev/null/x", "no-such-command"])
def test_every_failure_is_json_too(words):
    done = subprocess.run(
        [sys.executable, "-m", "tclora", *words.split(), "--json"], text=True, capture_output=True, check=False
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode in (1, 2) and done.stderr
    assert facts["error"].endswith("Error") and facts["what"]


def test_the_command_ends_with_the_status_of_main():
    told = [
        subprocess.run([sys.executable, "-m", "tclora", word], text=True, capture_output=True, check=False)
        for word in ("--version", "no-such-command")
    ]
    assert [done.returncode for done in told] == [0, 2]
    assert told[0].stdout.startswith("tclora ") and "no-such-command" in told[1].stderr
