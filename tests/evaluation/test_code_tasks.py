"""Tasks whose answers are programs: what is taken for code, the exemplars run, verdicts and shares by hand."""

import gzip
import json
import re

import pytest

from tclora.errors import ConfigError, ShapeError
from tclora.evaluation.tasks import Generation, Item, Likelihoods, Prompt, in_sandbox, load_task
from tclora.evaluation.tasks.code_tasks import CheckedBy, TestedBy, humaneval_program, mbpp_program
from tclora.evaluation.tasks.extract import between_ticks, solution_code
from tclora.evaluation.tasks.program_tasks import PROGRAM_METRICS
from tclora.sandbox import Limits, Sandbox, available

DEFINITION = "def solution():\n    a = 2\n\n    return a + 1"

SOLUTIONS = {
    "in ticks": (f"```python\n{DEFINITION}\n```\nDone.", DEFINITION + "\n"),
    "ticks without a language": (f"Sure:\n```\n{DEFINITION}\n```", DEFINITION + "\n"),
    "a block that is never closed": (f"```py\n{DEFINITION}", DEFINITION),
    "the block that defines it": (f"```\nx = 1\n```\n```python\n{DEFINITION}\n```", DEFINITION + "\n"),
    "bare": (f"Here it is.\n{DEFINITION}\nIt gives 3.", DEFINITION),
    "bare with its import": (
        "import math\ndef solution():\n\treturn math.pi\nprint(1)",
        "import math\ndef solution():\n\treturn math.pi",
    ),
    "one line": ("def solution(): return 3", "def solution(): return 3"),
    "an annotated one": ("def solution() -> int:\n    return 3", "def solution() -> int:\n    return 3"),
    "prose": ("The answer is 3.", None),
    "another function": ("```python\ndef solve():\n    return 3\n```", None),
    "a mention": ("call `solution()` to see", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("text", "code"), SOLUTIONS.values(), ids=SOLUTIONS)
def test_what_is_taken_for_the_solution(text, code):
    assert solution_code(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("``` python3\nx = 1\n```", "x = 1\n"),
        ("```pyramid = 3```", "pyramid = 3"),
        ("see\n```\n\n```\n```\ny = 2\n```", "y = 2\n"),
        ("```python\nx = 1", "x = 1"),
        ("x = 1\n```\nas asked", None),
        ("no code", None),
    ],
)
def test_the_block_between_ticks(text, code):
    assert between_ticks(text) == code


@pytest.mark.parametrize(
    "text", ["def solution(" + ")" * 50_000, "```" * 30_000, "def solution():\n" + "    \n" * 30_000]
)
def test_a_hostile_answer_ends(text):
    solution_code(text)
    between_ticks(text)


def test_programs_of_humaneval_and_mbpp():
    gold = CheckedBy('def f(x):\n    """Double."""\n', "def check(candidate):\n    assert candidate(2) == 4\n", "f")
    assert humaneval_program(gold, "    return 2 * x\n", goes_on=True) == gold.prompt + "    return 2 * x\n"
    assert humaneval_program(gold, "```\n    return 2 * x\n```", goes_on=False) == gold.prompt + "    return 2 * x\n"
    anew = humaneval_program(gold, "Here:\n```python\ndef f(x):\n    return 2 * x\n```", goes_on=False)
    names: dict = {}
    exec(anew, names)
    assert names["f"](2) == 4
    assert mbpp_program("```python\nx = 1\n```") == "x = 1\n"
    assert mbpp_program("x = 1\n```\nand so on") == "x = 1"


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    if not any(level.usable for level in available()):
        pytest.skip("no sandbox works here, so no code may be run")
    # Loops in these tests never end by themselves; a second is ample for an addition.
    return Sandbox(limits=Limits(wall_s=2.0, cpu_s=2))


def program_task(folder, sandbox=None, **row):
    (folder / "eval").mkdir(exist_ok=True)
    row = {"id": "1", "question": "What is 1 + 2?", "answer": 3.0} | row
    (folder / "eval" / "gsm_hard.jsonl").write_text(json.dumps(row) + "\n")
    task = load_task("gsm_hard", data=folder)
    return task if sandbox is None else in_sandbox(task, sandbox)


def returned(expression: str) -> str:
    return f"```python\ndef solution():\n    return {expression}\n```"


# Answer, and the four figures in the order of PROGRAM_METRICS.
VERDICTS = {
    "right": (returned("1 + 2"), (1, 1, 0, 0)),
    "a float": (returned("3.0"), (1, 1, 0, 0)),
    "near": (returned("3.002"), (1, 0, 0, 0)),
    "wrong": (returned("4"), (0, 0, 0, 0)),
    "bare": ("def solution():\n    return 3\nprint(1)", (1, 1, 0, 0)),
    "prose": ("It is 3.", (0, 0, 1, 0)),
    "does not compile": ("```python\ndef solution():\n    return (\n```", (0, 0, 1, 0)),
    "raises": (returned("1 / 0"), (0, 0, 0, 1)),
    "never ends": ("```python\ndef solution():\n    while True: pass\n```", (0, 0, 0, 1)),
    "ends the process": ("```python\nimport os\ndef solution():\n    os._exit(0)\n```", (0, 0, 0, 1)),
    "None": (returned("None"), (0, 0, 0, 0)),
    "bool": (returned("True"), (0, 0, 0, 0)),
    "inf": (returned("float('inf')"), (0, 0, 0, 0)),
    "nan": (returned("float('nan')"), (0, 0, 0, 0)),
    "huge": (returned("10 ** 400"), (0, 0, 0, 0)),
    "a text": (returned("'$3'"), (1, 1, 0, 0)),
    "words": (returned("'three'"), (0, 0, 0, 0)),
    "equals everything": (
        "```python\nclass A(float):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\n"
        "    def __abs__(self): return 0\ndef solution():\n    return A(9)\n```",
        (0, 0, 0, 0),
    ),
    "after the stop": (f"None.\nQuestion: What?\n{returned('3')}", (0, 0, 1, 0)),
}


@pytest.mark.parametrize(("answer", "figures"), VERDICTS.values(), ids=VERDICTS)
def test_verdicts_on_programs(tmp_path, sandbox, answer, figures):
    task = program_task(tmp_path, sandbox)
    assert task.score(task.items()[0], answer) == dict(zip(PROGRAM_METRICS, map(float, figures), strict=True))


def test_a_likelihood_is_no_program(tmp_path, sandbox):
    task = program_task(tmp_path, sandbox)
    with pytest.raises(ShapeError, match="a generated text was expected"):
        task.score(task.items()[0], Likelihoods((-1.0,), (1,), (False,)))


def test_the_prompt_shows_eight_examples_or_fewer(tmp_path):
    task = program_task(tmp_path)
    assert task.items()[0].ask.prompt.text.count("def solution():") == 8
    assert task.items()[0].ask.prompt.text.endswith("\n\nQuestion: What is 1 + 2?\nAnswer:\n")
    assert task.lower_is_better == ("invalid_code", "execution_error") and task.runs_code
    two = load_task("gsm_hard", data=tmp_path, shots=2)
    assert two.items()[0].ask.prompt.text.count("def solution():") == 2
    none = load_task("gsm_hard", data=tmp_path, shots=0)
    assert none.items()[0].ask.prompt.text == "Question: What is 1 + 2?\nAnswer:\n"
    with pytest.raises(ConfigError, match="too few examples for the shots"):
        load_task("gsm_hard", data=tmp_path, shots=9)
    instruction = load_task("gsm_hard", data=tmp_path, plain=False).items()[0].ask.prompt
    assert not instruction.plain and instruction.text.startswith("Answer the question with a Python function")


# Worked out by hand from the questions, not taken from the code.
ANSWERS = [39, 84, 910, 48, 15, 24, 1680, 500]


def test_the_exemplars_give_their_answers(tmp_path):
    prompt = program_task(tmp_path).items()[0].ask.prompt.text
    blocks = re.findall(r"Question: [^\n]+\nAnswer:\n```python\n(.*?)```\n\n", prompt, flags=re.S)
    assert len(blocks) == 8
    found = []
    for code in blocks:
        names: dict = {}
        exec(code, names)
        found.append(names["solution"]())
        assert "    # " in code and code.endswith("    return result\n")
    assert found == ANSWERS


@pytest.mark.needs_shared
def test_the_exemplars_are_in_no_benchmark_or_train_file(shared, tmp_path):
    questions = re.findall(r"Question: ([^\n]+)", program_task(tmp_path).items()[0].ask.prompt.text)[:8]
    shingles = {
        " ".join(words[i : i + 8]) for q in questions for words in [q.lower().split()] for i in range(len(words) - 7)
    }
    for file in ("eval/gsm8k", "eval/gsm_hard", "eval/svamp", "train/math_gsm8k"):
        with gzip.open(shared / "data" / f"{file}.jsonl.gz", "rt") as lines:
            text = " ".join(lines.read().lower().split())
        assert [shingle for shingle in shingles if shingle in text] == []


@pytest.mark.needs_shared
def test_reference_solutions_pass_and_wrong_ones_fail(shared, sandbox):
    for name, code_of in (("humaneval", "canonical_solution"), ("mbpp", "code")):
        task = in_sandbox(load_task(name, data=shared / "data", limit=4), sandbox)
        with gzip.open(shared / "data/eval" / f"{name}.jsonl.gz", "rt") as lines:
            codes = {str(row["task_id"]): row[code_of] for row in map(json.loads, lines)}
        for item in task.items():
            assert task.score(item, codes[item.id]) == {"pass_at_1": 1.0}
        assert task.score(task.items()[0], "    return None\n") == {"pass_at_1": 0.0}
        assert task.facts["sandbox"] == sandbox.facts


@pytest.mark.needs_shared
def test_gsm_hards_own_programs_give_its_answers(shared, sandbox):
    task = in_sandbox(load_task("gsm_hard", data=shared / "data", limit=10), sandbox)
    with gzip.open(shared / "data/eval/gsm_hard.jsonl.gz", "rt") as lines:
        programs = {row["id"]: row["solution"] for row in map(json.loads, lines)}
    for item in task.items():
        assert task.score(item, f"```python\n{programs[item.id]}\n```")["numeric_exact"] == 1.0


def test_a_task_without_code_takes_no_sandbox(tmp_path, sandbox):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "svamp.jsonl").write_text('{"id": "1", "question": "How many?", "answer": 3}\n')
    with pytest.raises(ConfigError, match="runs no code"):
        in_sandbox(load_task("svamp", data=tmp_path, shots=0), sandbox)


def test_items_of_another_task_are_refused(tmp_path, sandbox):
    (tmp_path / "eval").mkdir()
    row = {"task_id": 11, "text": "Add.", "code": "", "test_list": ["assert f() == 1"], "test_setup_code": ""}
    (tmp_path / "eval" / "mbpp.jsonl").write_text(json.dumps(row) + "\n")
    task = in_sandbox(load_task("mbpp", data=tmp_path, shots=0), sandbox)
    assert task.items()[0].gold == TestedBy("", ("assert f() == 1",))
    with pytest.raises(ShapeError, match="an item of MBPP has no tests"):
        task.score(Item("1", Generation(Prompt("Q"), 5), "x"), "x = 1")
