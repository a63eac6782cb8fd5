"""Code benchmarks: HumanEval and MBPP, one drawn sample for each problem (pass@1).

In: a `Request`. Out: a `BuiltTask` whose score runs the program in the sandbox. HumanEval's prompt goes to the model
as it is and ends at the usual stop texts; MBPP's shows tasks 2, 3 and 4 of its few-shot part, and its answer ends at
[DONE]. An answer with triple back-ticks gives the code between them. Sampling is the TC-LoRA paper's: temperature
0.05, top-p 0.95, 300 new tokens. Refused: shots for HumanEval, which has no examples, and more shots than MBPP's
few-shot part has.

Source: Chen et al. 2021, arXiv 2107.03374, for HumanEval and its stop texts; Austin et al. 2021, arXiv 2108.07732, and
lm-evaluation-harness 0.4.13 `tasks/mbpp` for MBPP's prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tclora.data.formats import as_text
from tclora.data.rows import Row
from tclora.errors import ConfigError, DataError, ShapeError
from tclora.evaluation.tasks.answer_tasks import rows_of
from tclora.evaluation.tasks.built import BuiltTask, CodeScorer, Request, chosen
from tclora.evaluation.tasks.extract import between_ticks
from tclora.evaluation.tasks.registry import EVAL_TASKS
from tclora.evaluation.tasks.scorers import generated_text
from tclora.evaluation.tasks.source import file_facts, find_file
from tclora.evaluation.tasks.task import Answer, Generation, Item, Prompt
from tclora.sandbox import Sandbox

__all__ = ["CheckedBy", "TestedBy", "humaneval_program", "mbpp_program", "score_humaneval", "score_mbpp"]

_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MAX_NEW_TOKENS = 300
_SAMPLING = {"temperature": 0.05, "top_p": 0.95}
_SHOWN_FIRST = (2, 3, 4)


@dataclass(frozen=True)
class CheckedBy:
    """HumanEval's gold: the prompt that the answer goes on from, and the test that calls the function."""

    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class TestedBy:
    """MBPP's gold: code that the tests need first, and the tests."""

    __test__ = False  # so that pytest does not take it for a test class
    setup: str
    asserts: tuple[str, ...]


@EVAL_TASKS.register(
    "humaneval", source="Chen 2021, arXiv 2107.03374", file="humaneval", n=164, metrics=("pass_at_1",), runs_code=True
)
def _humaneval(request: Request) -> BuiltTask:
    """Python functions from their signature and docstring, run against hidden tests."""
    if request.shots:
        raise ConfigError(
            "humaneval has no examples to be shown",
            found=f"{request.shots} shots",
            do="ask for 0; beside other tasks, --shots 3 humaneval=0",
        )
    path = find_file("eval/humaneval", request.data)
    rows = chosen(rows_of(path), request, lambda row: as_text(row, "task_id"))
    items = tuple(_humaneval_item(row, request.plain) for row in rows)
    return _code_task("humaneval", items, score_humaneval, dict(file_facts(path)) | request.facts(0))


@EVAL_TASKS.register(
    "mbpp", source="Austin 2021, arXiv 2108.07732", file="mbpp", n=500, metrics=("pass_at_1",), runs_code=True
)
def _mbpp(request: Request) -> BuiltTask:
    """Short Python programs from one sentence and three tests."""
    path = find_file("eval/mbpp", request.data)
    n_shots = 3 if request.shots is None else request.shots
    shots, shot_facts = _mbpp_shots(n_shots, request)
    rows = chosen(rows_of(path), request, lambda row: as_text(row, "task_id"))
    items = tuple(_mbpp_item(row, shots, request.plain) for row in rows)
    return _code_task("mbpp", items, score_mbpp, dict(file_facts(path)) | request.facts(n_shots) | shot_facts)


def score_humaneval(item: Item, answer: Answer, sandbox: Sandbox) -> Mapping[str, float]:
    """Whether the program passes the problem's tests."""
    gold = item.gold
    if not isinstance(gold, CheckedBy):
        raise ShapeError("an item of HumanEval has no test", where=item.id)
    program = humaneval_program(gold, generated_text(item, answer), goes_on=_prompt_of(item).plain)
    outcome = sandbox.run_humaneval(program, gold.test, gold.entry_point, prompt=gold.prompt)
    return {"pass_at_1": float(outcome.passed)}


def score_mbpp(item: Item, answer: Answer, sandbox: Sandbox) -> Mapping[str, float]:
    """Whether the program passes the problem's asserts."""
    gold = item.gold
    if not isinstance(gold, TestedBy):
        raise ShapeError("an item of MBPP has no tests", where=item.id)
    program = mbpp_program(generated_text(item, answer))
    return {"pass_at_1": float(sandbox.run_mbpp(program, gold.asserts, setup=gold.setup).passed)}


def humaneval_program(gold: CheckedBy, answer: str, *, goes_on: bool) -> str:
    """The whole program: the prompt and the text that goes on from it, or the prompt and the function written anew."""
    if goes_on:
        return gold.prompt + answer
    code = between_ticks(answer) or answer
    # The prompt's imports and helpers stay; a new definition comes last and so holds.
    return f"{gold.prompt}    pass\n\n{code}" if f"def {gold.entry_point}(" in code else gold.prompt + code


def mbpp_program(answer: str) -> str:
    """The program in an answer: what stands between back-ticks, or what comes before a lone mark of them."""
    return between_ticks(answer) or answer.split("\n```")[0]


def _code_task(name: str, items: tuple[Item, ...], scorer: CodeScorer, facts: dict[str, object]) -> BuiltTask:
    return BuiltTask(name, ("pass_at_1",), items, scorer, facts | _SAMPLING, runs_code=True)


def _humaneval_item(row: Row, plain: bool) -> Item:
    prompt = as_text(row, "prompt")
    gold = CheckedBy(prompt, as_text(row, "test"), as_text(row, "entry_point"))
    asked = Prompt(prompt) if plain else Prompt(f"Complete this Python function.\n\n{prompt}", plain=False)
    return Item(as_text(row, "task_id"), _generation(asked, _STOPS if plain else ()), gold)


def _mbpp_item(row: Row, shots: str, plain: bool) -> Item:
    asserts = _asserts(row)
    asked = shots + _mbpp_asked(row)
    prompt = Prompt(asked) if plain else Prompt(asked.rstrip(), plain=False)
    gold = TestedBy(as_text(row, "test_setup_code", optional=True), asserts)
    return Item(as_text(row, "task_id"), _generation(prompt, ("[DONE]",)), gold)


def _mbpp_asked(row: Row) -> str:
    tests = "\n".join(_asserts(row)[:3])
    lead = "You are an expert Python programmer, and here is your task: "
    return f"{lead}{as_text(row, 'text')} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"


def _mbpp_shots(n: int, request: Request) -> tuple[str, dict[str, object]]:
    if not n:
        return "", {}
    path = find_file("eval/mbpp_fewshot", request.data)
    # The three of the usual prompt first, then the others in order.
    rows = sorted(rows_of(path), key=lambda row: row.values.get("task_id") not in _SHOWN_FIRST)
    if n > len(rows):
        raise ConfigError("there are too few examples for the shots", where=path, found=len(rows), expected=n)
    shown = "".join(f"{_mbpp_asked(row)}{as_text(row, 'code')}\n[DONE]\n\n" for row in rows[:n])
    return shown, dict(file_facts(path, "fewshot_file"))


def _asserts(row: Row) -> tuple[str, ...]:
    tests = row.values.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise DataError("'test_list' is not a list of asserts", where=row.where, found=repr(tests)[:80])
    return tuple(tests)


def _generation(prompt: Prompt, stop: tuple[str, ...]) -> Generation:
    return Generation(prompt, _MAX_NEW_TOKENS, stop, **_SAMPLING)


def _prompt_of(item: Item) -> Prompt:
    if not isinstance(item.ask, Generation):
        raise ShapeError("an item of a code task asks for no text", where=item.id)
    return item.ask.prompt
