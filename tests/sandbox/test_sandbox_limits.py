"""Every way to use too much ends in time, with the right word for it, and leaves nothing running."""

import time

import pytest

from tclora.errors import ConfigError
from tclora.sandbox import Limits, Outcome, run_many

SHORT = Limits(wall_s=1.0, memory_bytes=128 * 2**20)
# For what ends by itself: a machine that is busy with other work must not make a timeout of it.
ROOMY = Limits(wall_s=30.0, cpu_s=30, memory_bytes=128 * 2**20)
HOG = "def solution():\n    x = []\n    while True: x.append(bytearray(b'x') * 10**7)\n"
FLOOD = (
    "import sys\nfor _ in range(600): print('x' * 100_000); sys.stderr.write('y' * 100_000)\ndef solution(): return 7\n"
)
BOMB = """
import os
def solution():
    n = 0
    for _ in range(1000):
        try: os.fork(); n += 1
        except OSError: pass
    return n
"""


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("def solution(): return 1", "passed", ""),
        ("def solution(:", "invalid_code", "SyntaxError"),
        ("def other(): return 1", "invalid_code", "does not define solution"),
        ("x = '\0'", "invalid_code", "null bytes"),
        ("x = '\ud800'", "invalid_code", "UnicodeEncodeError"),
        ("(" * 50_000, "invalid_code", "SyntaxError|MemoryError|nested"),
        ("1 / 0\ndef solution(): return 1", "execution_error", "ZeroDivisionError: division by zero"),
        ("def solution(): raise KeyError('k')", "execution_error", "KeyError: 'k'"),
        ("def solution(): return solution()", "execution_error", "RecursionError"),
        ("def solution(n): return 1", "execution_error", "TypeError"),
        ("def solution(): return object()", "execution_error", "returned a object, which is no plain data"),
        ("solution = 5", "execution_error", "not callable"),
        ("def solution(): return input()", "execution_error", "EOFError"),
        ("class E(Exception): pass\ndef solution(): raise E('mine')", "execution_error", "E: mine"),
        ("class E(Exception):\n    def __str__(self): raise E\ndef solution(): raise E", "execution_error", "E"),
        ("import numpy\ndef solution(): return 1", "execution_error", "No module named 'numpy'"),
        ("import ctypes\ndef solution(): return ctypes.string_at(0)", "execution_error", "crashed with signal 11"),
        ("import os\ndef solution(): os._exit(3)", "execution_error", "status 3"),
        ("def solution(): return 'x' * 2_000_000", "execution_error", "too large"),
        ("def solution():\n    x = []\n    for _ in range(500): x = [x]\n    return x", "execution_error", "deep"),
        ("def solution():\n    x = []\n    x.append(x)\n    return x", "execution_error", "deep"),
        ("def solution():\n    raise MemoryError", "memory", "MemoryError"),
        (HOG, "memory", "MemoryError"),
        ("x = bytearray(10**9)\ndef solution(): return 1", "memory", "MemoryError"),
        ("def solution():\n    while True: pass", "timeout", "no answer in 1 s"),
        ("while True: pass", "timeout", "no answer in 1 s"),
        ("import time\ndef solution(): time.sleep(30)", "timeout", "no answer in 1 s"),
        (FLOOD, "passed", ""),
        (BOMB, "passed", ""),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:25].replace("\n", ";"),
)
def test_the_word_for_it(opened, program, status, detail):
    outcome = opened("auto", limits=SHORT if status == "timeout" else ROOMY).run_solution(program)
    assert outcome.status == status
    assert outcome.detail == detail or any(part in outcome.detail for part in detail.split("|") if part)
    if program is BOMB:
        assert outcome.value == 0


@pytest.mark.parametrize("program", ["def solution():\n    while True: pass", HOG, "import time\ntime.sleep(9)"])
def test_each_back_end_ends_it_in_time(opened, backend, program):
    sandbox = opened(backend, limits=SHORT)
    start = time.monotonic()
    assert sandbox.run_solution(program).status in ("timeout", "memory")
    # One second of the program's own; the rest is for a start on a machine that is busy with other work.
    assert time.monotonic() - start < 10


def test_the_limit_of_cpu_time(opened, backend):
    limited = opened(backend, limits=Limits(wall_s=60.0, cpu_s=1))
    outcome = limited.run_solution("def solution():\n    while True: pass")
    assert outcome == Outcome("timeout", detail="more than 1 s of CPU time")


@pytest.mark.slow
def test_the_limit_of_cpu_time_cannot_be_ignored(opened, backend):
    limited = opened(backend, limits=Limits(wall_s=60.0, cpu_s=1))
    caught = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef solution():\n    while True: pass"
    assert limited.run_solution(caught).status == "timeout"


def test_closing_its_end_helps_no_program(opened, backend):
    """Around a program in bubblewrap others hold that end as well, so there it is the clock that ends it."""
    text = "import os\ndef solution():\n    os.close(3); os.close(4)\n    while True: pass"
    outcome = opened(backend, limits=SHORT).run_solution(text)
    assert outcome.status == ("timeout" if backend == "bubblewrap" else "execution_error")


def test_a_loop_of_the_test_over_an_answer_ends_too(opened):
    """The value 10**15 is a plain answer; the test's own loop over it is what does not end."""
    test = "def check(c):\n    for _ in range(c()): pass\n"
    outcome = opened("auto", limits=SHORT).run_humaneval("def f(): return 10**15", test, "f")
    assert outcome == Outcome("timeout", detail="the test did not end in time")


def test_the_clock_runs_over_all_calls_together(opened):
    test = "def check(c):\n    for _ in range(100): c()\n"
    program = "import time\ndef f(): time.sleep(0.1)"
    assert opened("auto", limits=SHORT).run_humaneval(program, test, "f").status == "timeout"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wall_s": 0.0}, "wall_s of the sandbox's limits is not above zero"),
        ({"wall_s": float("nan")}, "wall_s"),
        ({"cpu_s": -1}, "cpu_s"),
        ({"memory_bytes": 2**20}, "memory limit is too small"),
        ({"answer_bytes": 0}, "answer_bytes"),
    ],
)
def test_limits_that_are_none_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Limits(**values)


def test_many_at_once_keep_their_order(opened):
    sandbox = opened("auto", limits=ROOMY)
    programs = [f"import time\ntime.sleep({0.2 if n == 0 else 0})\ndef solution(): return {n}" for n in range(8)]
    calls = [lambda text=text: sandbox.run_solution(text) for text in programs]
    assert [outcome.value for outcome in run_many(calls, workers=3)] == list(range(8))


def test_no_workers_are_refused():
    with pytest.raises(ConfigError, match="needs a worker"):
        list(run_many([], workers=0))


@pytest.mark.slow
def test_hostile_neighbours_change_no_honest_verdict(opened):
    """A quarter of two hundred samples loops, hogs, forks or floods; the other verdicts are as without them."""
    sandbox = opened("auto", limits=Limits(wall_s=3.0, memory_bytes=128 * 2**20))
    hostile = ["while True: pass", HOG, BOMB, FLOOD]
    texts = [hostile[n // 4 % 4] if n % 4 == 0 else f"def solution(): return {n}" for n in range(200)]
    found = list(run_many([lambda text=text: sandbox.run_solution(text) for text in texts], workers=2))
    honest = [(n, outcome) for n, outcome in enumerate(found) if n % 4]
    assert [n for n, outcome in honest if outcome != Outcome("passed", value=n)] == []
    assert {outcome.status for outcome in found[::16]} == {"timeout"}
    assert {outcome.status for outcome in found[4::16]} == {"memory"}
