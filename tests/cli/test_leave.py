"""The command's end: what an end owes is done, though nothing is taken apart."""

import subprocess
import sys

import pytest


def end(body: str, status: int = 0) -> subprocess.CompletedProcess:
    code = f"from tclora.cli.leave import leave\n{body}\nleave({status})\nprint('after the end')"
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


def test_output_that_nobody_reads_does_not_hang_or_hide_the_status():
    code = "from tclora.cli.leave import leave; print('said'); leave(3)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) != 0


def test_the_command_ends_with_the_status_of_main():
    told = [
        subprocess.run([sys.executable, "-m", "tclora", word], text=True, capture_output=True, check=False)
        for word in ("--version", "no-such-command")
    ]
    assert [done.returncode for done in told] == [0, 2]
    assert told[0].stdout.startswith("tclora ") and "no-such-command" in told[1].stderr
