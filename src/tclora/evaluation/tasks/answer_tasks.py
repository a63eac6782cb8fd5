"""Benchmarks whose answer is a generated text: BBH's open subtasks by exact match, GSM8K and SVAMP by their number.

In: a `Request`. Out: a `BuiltTask` that generates greedily. GSM8K is prompted as in lm-eval, with 5 shots; they are
drawn by the seed from its train split (whose calculator marks the local copy lacks) and serve SVAMP too, which has no
worked solutions of its own. In the base's template a math question is the instruction of the train split, without
shots. Refused: shots for BBH's open subtasks without a file of them, and a question whose answer is no number.

Source: lm-evaluation-harness 0.4.13, `tasks/gsm8k/gsm8k.yaml` and `tasks/bbh/zeroshot`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from tclora.data import expand_paths
from tclora.data.formats import as_text
from tclora.data.rows import Row, read_rows
from tclora.errors import ConfigError, DataError
from tclora.evaluation.tasks.built import BuiltTask, Request, chosen, draw_shots
from tclora.evaluation.tasks.numbers import number_of
from tclora.evaluation.tasks.registry import EVAL_TASKS
from tclora.evaluation.tasks.scorers import NUMERIC_METRICS, score_exact, score_numeric
from tclora.evaluation.tasks.source import file_facts, find_file
from tclora.evaluation.tasks.task import Generation, Item, Prompt

__all__ = ["gold_number", "rows_of"]

_MATH = "Solve the following grade school math problem. Reason step by step and finish with a line '#### <answer>'."
_ENDS = ("Question:", "</s>", "<|im_end|>")
_BBH_ENDS = ("\n", "Q:", "</s>", "<|im_end|>")


def rows_of(path: Path) -> list[Row]:
    """All rows of a data file, in order."""
    return [row for file in expand_paths(path) for row in read_rows(file)]


def gold_number(row: Row) -> float:
    """The number in a row's `answer`, which may be written as text.

    Raises:
        DataError: it is no number; names file and line.
    """
    value = row.values.get("answer")
    number = number_of(value)
    if number is None:
        raise DataError("'answer' is not a number", where=row.where, found=repr(value)[:80], expected="a finite number")
    return number


@EVAL_TASKS.register(
    "bbh_freeform", source="Suzgun 2022, arXiv 2210.09261", file="bbh_freeform", n=1000, metrics=("exact_match",)
)
def _bbh_freeform(request: Request) -> BuiltTask:
    """BIG-Bench Hard, the 4 subtasks with open answers; one group each."""
    if request.shots:
        raise ConfigError("bbh_freeform has no examples to be shown", found=f"{request.shots} shots", do="ask for 0")
    path = find_file("eval/bbh_freeform", request.data)
    items = []
    for row in chosen(rows_of(path), request, lambda row: as_text(row, "id")):
        question = as_text(row, "question")
        prompt = Prompt(f"Q: {question}\nA:") if request.plain else Prompt(question, plain=False)
        # The longest answer is a list of 20 sorted words.
        ask = Generation(prompt, 128, _BBH_ENDS if request.plain else ())
        items.append(Item(as_text(row, "id"), ask, (as_text(row, "answer_text"),), as_text(row, "task")))
    facts = dict(file_facts(path)) | request.facts(0)
    return BuiltTask("bbh_freeform", ("exact_match",), tuple(items), score_exact, facts)


@EVAL_TASKS.register("gsm8k", source="Cobbe 2021, arXiv 2110.14168", file="gsm8k", n=1319, metrics=NUMERIC_METRICS)
def _gsm8k(request: Request) -> BuiltTask:
    """Grade school math in words; the number behind ####, or the last one."""
    return _math("gsm8k", request)


@EVAL_TASKS.register("svamp", source="Patel 2021, arXiv 2103.07191", file="svamp", n=1000, metrics=NUMERIC_METRICS)
def _svamp(request: Request) -> BuiltTask:
    """One-step math in words, varied so that key words mislead."""
    return _math("svamp", request)


def _math(name: str, request: Request) -> BuiltTask:
    path = find_file(f"eval/{name}", request.data)
    everything = rows_of(path)
    n_shots = (5 if request.plain else 0) if request.shots is None else request.shots
    shots, shot_facts = _math_shots(n_shots, request, [as_text(row, "question") for row in everything])
    rows = chosen(everything, request, lambda row: as_text(row, "id"))
    items = tuple(_math_item(row, shots, request.plain) for row in rows)
    facts = dict(file_facts(path)) | request.facts(n_shots) | shot_facts
    return BuiltTask(name, NUMERIC_METRICS, items, score_numeric, facts)


def _math_item(row: Row, shots: str, plain: bool) -> Item:
    question = as_text(row, "question")
    asked = Prompt(shots + _asked(question)) if plain else Prompt(f"{shots}{_MATH}\n{question}", plain=False)
    return Item(as_text(row, "id"), Generation(asked, 256, _ENDS if plain else ()), gold_number(row))


def _math_shots(n: int, request: Request, tested: Sequence[str]) -> tuple[str, dict[str, object]]:
    if not n:
        return "", {}
    path = find_file("train/math_gsm8k", request.data)
    question: Callable[[Row], str] = lambda row: as_text(row, "input")  # noqa: E731
    drawn = draw_shots(rows_of(path), n, seed=request.seed, text=question, tested=tested, where=path)
    shown = "".join(f"{_asked(question(row))} {as_text(row, 'output')}\n\n" for row in drawn)
    return shown, dict(file_facts(path, "fewshot_file"))


def _asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"
