"""The side that is trusted: what a test may use, which functions it tests, and how its faults are told."""

import random

import pytest

from tclora.errors import DataError
from tclora.sandbox.names import functions_under_test, names_from_outside
from tclora.sandbox.trusted import compiled, new_namespace


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("assert f(1) == 2", ("f",)),
        ("assert f(g(1)) == len([2])", ("f", "g")),
        ("x = 1\nassert f(x) == [y for y in range(x)]", ("f",)),
        ("import math\nassert math.isclose(f(1), 2)", ("f",)),
        ("def h(a): return a + other\nassert h(1) == 1", ("other",)),
        ("def check(c):\n    from math import pi\n    assert c(pi) == (lambda q: q)(1)", ()),
        ("class A:\n    z = w\n", ("w",)),
    ],
)
def test_names_from_outside(text, names):
    assert names_from_outside(text) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("assert sum(10, 15) == 6", ("sum",)),
        ("assert set(find([1])) == set([1])", ("find",)),
        ("assert f(1) == g(2)", ("f", "g")),
    ],
)
def test_functions_under_test(text, names):
    assert functions_under_test(text) == names


@pytest.mark.parametrize("text", ["assert set(sum(1)) == 1", "assert 1 == 1"])
def test_asserts_that_do_not_show_their_function_are_refused(text):
    with pytest.raises(DataError, match=r"(?s)do not show which function.*function=\.\.\."):
        functions_under_test(text)


def test_a_built_in_name_is_tested_if_the_benchmark_says_so(sandbox):
    asserts = ["assert set(sum([1, 2])) == {3}"]
    program = "def sum(x): return (x[0] + x[1],)\n"
    with pytest.raises(DataError, match="do not show"):
        sandbox.run_mbpp(program, asserts)
    assert sandbox.run_mbpp(program, asserts, function="sum").passed


def test_random_is_seeded_and_not_the_processs_own():
    drawn = []
    for _ in range(2):
        space = new_namespace({})
        text = "import random\nfrom random import randint, choice, Random\nx = [randint(0, 10**9), choice('ab')]"
        code = compiled(text, "a test")
        state = random.getstate()
        exec(code, space)
        assert random.getstate() == state
        drawn.append(space["x"])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", ["os", "subprocess", "sys", "socket", "tclora", "torch", "os.path", "importlib"])
def test_a_test_that_imports_more_is_refused(name):
    with pytest.raises(DataError, match=r"(?s)imports a module that tests may not have.*found +" + name):
        exec(compiled(f"import {name}", "a test"), new_namespace({}))


@pytest.mark.parametrize("text", ["open('/etc/passwd')", "eval('1')", "exec('1')", "input()", "exit()"])
def test_a_test_has_no_file_and_runs_no_text(text):
    with pytest.raises(NameError):
        exec(compiled(text, "a test"), new_namespace({}))


def test_a_test_prints_nothing(capfd):
    exec(compiled("print('loud')", "a test"), new_namespace({}))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("def check(c:\n  pass", "a test does not compile"),
        ("x = 1", "defines no function check"),
        ("def check(c): assert helper(c(1)) == 2", r"(?s)does not define.*helper.*prompt="),
        ("def check(c): import os", "imports a module"),
        ("def check(c): c(lambda: 1)", r"(?s)no plain data.*found +function"),
    ],
)
def test_a_fault_of_the_test_is_no_verdict(sandbox, test, message):
    with pytest.raises(DataError, match=message):
        sandbox.run_humaneval("def f(x): return 2", test, "f")


def test_no_assert_at_all_is_refused(sandbox):
    with pytest.raises(DataError, match="no assert"):
        sandbox.run_mbpp("def f(): pass", [])


def test_a_broken_prompt_is_refused(sandbox):
    with pytest.raises(DataError, match=r"(?s)prompt cannot be run.*ZeroDivisionError"):
        sandbox.run_humaneval("def f(): pass", "def check(c): pass", "f", prompt="1 / 0")


def test_the_assert_that_did_not_hold_is_quoted(sandbox):
    outcome = sandbox.run_mbpp("def f(x): return x", ["assert f(1) == 1", "assert f(2) == 3"])
    assert outcome.detail == "AssertionError: assert f(2) == 3"


def test_what_a_program_changes_in_place_is_seen(sandbox):
    test = (
        "def check(c):\n    a, d, s = [2, 1], {}, {1}\n    assert c(a, d, s) is None\n"
        "    assert a == [1, 2] and d == {3: 4} and s == set()\n"
    )
    assert sandbox.run_humaneval("def f(a, d, s):\n    a.sort(); d[3] = 4; s.clear()\n", test, "f").passed
    assert sandbox.run_humaneval("def f(a, d, s):\n    return None\n", test, "f").status == "failed"


def test_a_test_may_expect_an_exception(sandbox):
    test = "def check(c):\n    try: c(1)\n    except ValueError as e: assert str(e) == 'no'\n    else: assert False\n"
    assert sandbox.run_humaneval("def f(x): raise ValueError('no')", test, "f").passed
    assert sandbox.run_humaneval("def f(x): raise KeyError('no')", test, "f").status == "execution_error"
    assert sandbox.run_humaneval("def f(x): return 1", test, "f").status == "failed"


def test_a_test_that_swallows_everything_does_not_save_a_dead_program(sandbox):
    test = "def check(c):\n    try: c(1)\n    except: pass\n"
    assert sandbox.run_humaneval("import os\ndef f(x): os._exit(0)", test, "f").status == "execution_error"
