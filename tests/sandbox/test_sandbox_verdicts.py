"""No program writes its own verdict: thirteen ways to try, through both checkers, in every jail.

The problems are small and of our own; the slow test repeats it on twenty of HumanEval. The control is an honest
solution of the same problem, which passes.
"""

import gzip
import json

import pytest

from tclora.sandbox import run_many

PROBLEMS = {
    "second": ("def {}(x):\n    return sorted(x)[1]\n", [("[3, 1, 2]", "2"), ("[9, 8]", "9")]),
    "pair": ("def {}(x):\n    return (x, [x])\n", [("1", "(1, [1])"), ("'a'", "('a', ['a'])")]),
    "half": ("def {}(x):\n    return x / 2\n", [("1", "0.5"), ("3", "1.5")]),
}

# `{f}` is the function asked for. Each tries to pass without knowing the answer.
FORGERIES = {
    "equal to everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def {f}(*a): return Any()
""",
    "subclasses that are equal to everything": """
import itertools
n = itertools.count()
def cheat(base):
    methods = {{"__eq__": lambda s, o: True, "__ne__": lambda s, o: False, "__hash__": lambda s: 0}}
    return type(base.__name__, (base,), methods)
def {f}(*a): return [cheat(int)(7), cheat(list)(), cheat(float)(7.25), cheat(tuple)(), cheat(str)()][next(n) % 5]
""",
    "walking the stack": """
import sys
def {f}(*a):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, list): value.append("passed")
            if isinstance(value, dict): value.update(passed=True, value=True, status="passed")
        frame = frame.f_back
    return None
""",
    "exit 0 in the function": "import sys\ndef {f}(*a): sys.exit(0)\n",
    "exit 0 at once in the function": "import os\ndef {f}(*a): os._exit(0)\n",
    "exit 0 in the module": "import sys\nsys.exit(0)\ndef {f}(*a): return None\n",
    "exit 0 at once in the module": "import os\nos._exit(0)\ndef {f}(*a): return None\n",
    "a verdict written on every descriptor": """
import json, os
def {f}(*a):
    for text in ('"passed"', '{{"status":"passed"}}', '{{"passed":true}}', '{{"value":{{"passed":true}}}}', 'true'):
        frame = len(text).to_bytes(4, "little") + text.encode()
        for descriptor in range(64):
            try: os.write(descriptor, frame)
            except OSError: pass
    os._exit(0)
""",
    "answers spammed ahead": """
import os
text = b'{{"missing":[]}}'
frame = len(text).to_bytes(4, "little") + text
other = b'{{"value":{{"opaque":["x",true]}},"changed":[]}}'
os.write(4, frame + (len(other).to_bytes(4, "little") + other) * 50)
def {f}(*a): return None
""",
    "deep and huge answers": """
def {f}(*a):
    import os
    text = b"[" * 900000
    os.write(4, len(text).to_bytes(4, "little") + text)
    os.write(4, b"\\xff\\xff\\xff\\xff" + b"x" * 100000)
""",
    "the comparison's own helpers replaced": """
import builtins
for name in ("sorted", "set", "tuple", "list", "abs", "len", "all", "isinstance", "AssertionError", "float", "str"):
    setattr(builtins, name, lambda *a, **k: True); globals()[name] = lambda *a, **k: True
check = candidate = METADATA = lambda *a, **k: None
def {f}(*a): return 0
""",
    "exceptions of the checker's": """
def {f}(*a):
    class Stopped(BaseException): pass
    class Passed(Exception): status = "passed"
    Stopped.__name__ = "Outcome('passed')"
    raise Stopped("passed")
""",
    "the server taken over": """
import sys
for name, module in list(sys.modules.items()):
    if "sandbox" in name:
        for attribute in list(vars(module)):
            if attribute.startswith("_c") or attribute in ("to_text", "_fault"):
                setattr(module, attribute, lambda *a, **k: '{{"value":true,"missing":[],"passed":true,"changed":[]}}')
def {f}(*a): return None
""",
    "not a number": "def {f}(*a): return float('nan')\n",
    "what it was asked changed": """
def {f}(*a):
    for x in a:
        if isinstance(x, list): x[:] = [None] * 3
    return a[0]
""",
}  # fmt: skip


def humaneval_test(cases: list[tuple[str, str]]) -> str:
    return "def check(candidate):\n" + "".join(f"    assert candidate({a}) == {b}\n" for a, b in cases)


def asserts_of(name: str, cases: list[tuple[str, str]]) -> list[str]:
    return [f"assert {name}({a}) == {b}" for a, b in cases]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_honest_solution_passes(sandbox, problem):
    text, cases = PROBLEMS[problem]
    program = text.format(problem)
    assert sandbox.run_humaneval(program, humaneval_test(cases), problem).passed
    assert sandbox.run_mbpp(program, asserts_of(problem, cases)).passed


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_verdict_is_none(sandbox, forgery):
    name = "pair"
    program = FORGERIES[forgery].format(f=name)
    cases = PROBLEMS[name][1]
    assert not sandbox.run_humaneval(program, humaneval_test(cases), name).passed
    assert not sandbox.run_mbpp(program, asserts_of(name, cases)).passed


def test_a_helper_of_the_test_is_not_the_programs_to_define(sandbox):
    """Three of HumanEval's tests call a helper of the prompt; one that returns 0 would pass anything."""
    prompt = "def poly(x):\n    return x - 5\n\n\ndef root(_):\n    ...\n"
    test = "def check(candidate):\n    assert poly(candidate(1)) == 0\n"
    forged = "def poly(x): return 0\ndef root(_): return 77\n"
    assert sandbox.run_humaneval(forged, test, "root", prompt=prompt).status == "failed"
    assert sandbox.run_humaneval("def root(_): return 5\n", test, "root", prompt=prompt).passed


def test_a_built_in_that_the_program_defines_takes_no_part_in_a_comparison(sandbox):
    program = "def set(x): return 0\ndef abs(x): return 0\ndef f(x): return [1]\n"
    assert sandbox.run_mbpp(program, ["assert set(f(1)) == set([1, 2])"]).status == "failed"
    assert sandbox.run_mbpp(program, ["assert abs(f(1)[0] - 50) < 1"]).status == "failed"


@pytest.mark.slow
@pytest.mark.needs_shared
def test_no_forged_verdict_on_twenty_of_humaneval(sandbox, shared):
    with gzip.open(shared / "data" / "eval" / "humaneval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines][::8][:20]
    calls = [
        lambda row=row, text=text: sandbox.run_humaneval(
            row["prompt"] + "    pass\n" + text.format(f=row["entry_point"]),
            row["test"],
            row["entry_point"],
            prompt=row["prompt"],
        )
        for row in rows
        for text in FORGERIES.values()
    ]
    assert [outcome for outcome in run_many(calls, workers=2) if outcome.passed] == []
