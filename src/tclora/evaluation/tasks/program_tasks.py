"""Math answered by a program: GSM-Hard, GSM8K and SVAMP in the manner of PAL.

In: a `Request`. Out: a `BuiltTask` whose prompt shows up to eight solved examples, written by this project
(`pal_exemplars.txt`), and whose score runs the `solution()` of the answer in the sandbox. Figures: the value is within
a relative 1e-3 of the answer (the main one), it is the answer, and the shares of answers without code that compiles
and defines `solution`, and of programs that raised or ran out of time or memory. A value that is no number is wrong
and no failure. Refused: more shots than examples.

Source: Gao et al. 2022, PAL, arXiv 2211.10435, section 3 and GSM-Hard in section 4; TC-LoRA's skill composition, arXiv
2508.03999, takes the code between triple back-ticks.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from tclora.data.formats import as_text
from tclora.data.rows import Row
from tclora.errors import ConfigError
from tclora.evaluation.tasks.answer_tasks import gold_number, rows_of
from tclora.evaluation.tasks.built import BuiltTask, Request, chosen
from tclora.evaluation.tasks.extract import solution_code
from tclora.evaluation.tasks.registry import EVAL_TASKS
from tclora.evaluation.tasks.scorers import generated_text, numeric_figures
from tclora.evaluation.tasks.source import file_facts, find_file
from tclora.evaluation.tasks.task import Answer, Generation, Item, Prompt
from tclora.sandbox import Sandbox, numeric_value

__all__ = ["PROGRAM_METRICS", "score_program"]

PROGRAM_METRICS = ("numeric", "numeric_exact", "invalid_code", "execution_error")
_FAULTS = ("invalid_code", "execution_error")
_INSTRUCTION = (
    "Answer the question with a Python function called solution that takes no arguments and returns the answer as a "
    "number. Write the code between triple back-ticks."
)
_PACKAGE, _FILE = "tclora.evaluation.tasks", "pal_exemplars.txt"


@EVAL_TASKS.register(
    "gsm_hard",
    source="Gao 2022, arXiv 2211.10435",
    file="gsm_hard",
    n=1319,
    metrics=PROGRAM_METRICS,
    runs_code=True,
)
def _gsm_hard(request: Request) -> BuiltTask:
    """GSM8K with large numbers, answered by a program: needs math and code at once."""
    return _programs("gsm_hard", "gsm_hard", request)


@EVAL_TASKS.register(
    "gsm8k_pal",
    source="Gao 2022, arXiv 2211.10435",
    file="gsm8k",
    n=1319,
    metrics=PROGRAM_METRICS,
    runs_code=True,
)
def _gsm8k_pal(request: Request) -> BuiltTask:
    """GSM8K answered by a program."""
    return _programs("gsm8k_pal", "gsm8k", request)


@EVAL_TASKS.register(
    "svamp_pal",
    source="Gao 2022, arXiv 2211.10435",
    file="svamp",
    n=1000,
    metrics=PROGRAM_METRICS,
    runs_code=True,
)
def _svamp_pal(request: Request) -> BuiltTask:
    """SVAMP answered by a program."""
    return _programs("svamp_pal", "svamp", request)


def score_program(item: Item, answer: Answer, sandbox: Sandbox) -> Mapping[str, float]:
    """Run the answer's `solution()` in the sandbox and compare its value."""
    code = solution_code(generated_text(item, answer))
    if code is None:
        return {**numeric_figures(item, None), "invalid_code": 1.0, "execution_error": 0.0}
    outcome = sandbox.run_solution(code)
    number = numeric_value(outcome.value) if outcome.passed else None
    invalid = outcome.status == "invalid_code"
    failed = not outcome.passed and not invalid
    return {**numeric_figures(item, number), "invalid_code": float(invalid), "execution_error": float(failed)}


def _programs(name: str, file: str, request: Request) -> BuiltTask:
    path = find_file(f"eval/{file}", request.data)
    exemplars = _exemplars()
    n_shots = len(exemplars) if request.shots is None else request.shots
    if n_shots > len(exemplars):
        raise ConfigError("there are too few examples for the shots", where=name, found=n_shots, expected="8 or fewer")
    rows = chosen(rows_of(path), request, lambda row: as_text(row, "id"))
    shown = "".join(f"{exemplar}\n\n" for exemplar in exemplars[:n_shots])
    items = tuple(_item(row, shown, request.plain) for row in rows)
    facts = dict(file_facts(path)) | request.facts(n_shots)
    if n_shots:
        facts |= {"fewshot_file": _FILE, "fewshot_file_sha256": hashlib.sha256(shown.encode()).hexdigest()}
    return BuiltTask(name, PROGRAM_METRICS, items, score_program, facts, lower_is_better=_FAULTS, runs_code=True)


def _item(row: Row, shown: str, plain: bool) -> Item:
    asked = f"{shown}Question: {as_text(row, 'question')}\nAnswer:\n"
    prompt = Prompt(asked) if plain else Prompt(f"{_INSTRUCTION}\n\n{asked.rstrip()}", plain=False)
    return Item(as_text(row, "id"), Generation(prompt, 300, ("\nQuestion:", "</s>", "<|im_end|>")), gold_number(row))


@cache
def _exemplars() -> tuple[str, ...]:
    text = resources.files(_PACKAGE).joinpath(_FILE).read_text(encoding="utf-8")
    first, *others = text.strip().split("\n\nQuestion: ")
    return (first, *(f"Question: {other}" for other in others))
