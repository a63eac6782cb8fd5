"""From the rows of official sets to rows of the shared schema; one function each, the columns in their names.

In: a row as the Hub has it, and `<configuration>/<index>`. Out: a row of the shared schema. The texts are those that
lm-eval's preprocessing makes, so prompts from the Hub and from local files are the same.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "BBH_CHOICE",
    "BBH_FREEFORM",
    "arc",
    "bbh_choice",
    "bbh_freeform",
    "boolq",
    "gsm8k",
    "gsm8k_solved",
    "gsm_hard",
    "hellaswag",
    "humaneval",
    "mbpp",
    "openbookqa",
    "piqa",
    "svamp",
    "winogrande",
    "without_marks",
]

Row = Mapping[str, Any]

# The closed sets of subtasks whose questions list no options.
_CLOSED = {
    "boolean_expressions": ("False", "True"),
    "sports_understanding": ("no", "yes"),
    "web_of_lies": ("No", "Yes"),
}
BBH_FREEFORM = ("dyck_languages", "multistep_arithmetic_two", "object_counting", "word_sorting")
BBH_CHOICE = (
    *_CLOSED,
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "navigate",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
)
_OPTION = re.compile(r"^(?:\((?P<letter>[A-Z])\)|-)[ \t]*(?P<text>.*)$", re.MULTILINE)
# GSM8K marks each calculation for a calculator: 3 + 4 = <<3+4=7>>7.
_CALCULATION = re.compile(r"<<[^>]*>>")


def boolq(row: Row, key: str) -> dict[str, Any]:
    question = row["question"]
    asked = question if question.endswith("?") else question + "?"
    return _choice(key, asked, ["no", "yes"], int(row["label"]), context=row["passage"])


def piqa(row: Row, key: str) -> dict[str, Any]:
    return _choice(key, row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


def hellaswag(row: Row, key: str) -> dict[str, Any]:
    context = row["ctx_a"] + " " + row["ctx_b"].capitalize()
    endings = [without_marks(ending) for ending in row["endings"]]
    return _choice(key, without_marks(f"{row['activity_label']}: {context}"), endings, int(row["label"]))


def winogrande(row: Row, key: str) -> dict[str, Any]:
    return _choice(key, row["sentence"], [row["option1"], row["option2"]], int(row["answer"]) - 1)


def arc(row: Row, key: str) -> dict[str, Any]:
    labels = list(row["choices"]["label"])
    return _choice(row["id"], row["question"], list(row["choices"]["text"]), labels.index(row["answerKey"]))


def openbookqa(row: Row, key: str) -> dict[str, Any]:
    labels = list(row["choices"]["label"])
    answer = labels.index(row["answerKey"].strip())
    return _choice(row["id"], row["question_stem"], list(row["choices"]["text"]), answer)


def bbh_choice(row: Row, key: str) -> dict[str, Any]:
    """A question whose options are listed, or belong to its subtask; `answer` is -1 where the key is no option."""
    task = key.split("/")[0]
    question, _, listed = row["input"].partition("\nOptions:\n")
    options = [(match["letter"], match["text"].strip()) for match in _OPTION.finditer(listed)]
    options = options or [(None, text) for text in _CLOSED[task]]
    keys = [f"({letter})" if letter else text for letter, text in options]
    target = row["target"].strip()
    answer = keys.index(target) if target in keys else -1
    return _choice(key, question, [text for _, text in options], answer) | {"task": task}


def bbh_freeform(row: Row, key: str) -> dict[str, Any]:
    return {"id": key, "task": key.split("/")[0], "question": row["input"], "answer_text": row["target"]}


def gsm8k(row: Row, key: str) -> dict[str, Any]:
    solution, _, answer = row["answer"].partition("####")
    number = float(answer.strip().replace(",", ""))
    solution = _CALCULATION.sub("", solution).strip()
    return {"id": f"gsm8k_test/{_index(key)}", "question": row["question"], "answer": number, "solution": solution}


def gsm8k_solved(row: Row, key: str) -> dict[str, Any]:
    """A row of the train split, as an instruction example."""
    ask = "Solve the following grade school math problem. Reason step by step and finish with a line '#### <answer>'."
    output = _CALCULATION.sub("", row["answer"])
    return {"task": "math/gsm8k_cot", "instruction": ask, "input": row["question"], "output": output}


def svamp(row: Row, key: str) -> dict[str, Any]:
    question = f"{row['Body'].strip().rstrip('.')}. {row['Question'].strip()}"
    return {"id": row["ID"], "question": question, "answer": float(row["Answer"]), "equation": row["Equation"]}


def gsm_hard(row: Row, key: str) -> dict[str, Any]:
    answer = float(row["target"])
    return {"id": f"gsm_hard/{_index(key)}", "question": row["input"], "answer": answer, "solution": row["code"]}


def humaneval(row: Row, key: str) -> dict[str, Any]:
    return {name: row[name] for name in ("task_id", "prompt", "entry_point", "canonical_solution", "test")}


def mbpp(row: Row, key: str) -> dict[str, Any]:
    tests = {"test_list": list(row["test_list"]), "test_setup_code": row["test_setup_code"] or ""}
    # Files of that set end lines as on Windows.
    return {"task_id": row["task_id"], "text": row["text"], "code": row["code"].replace("\r\n", "\n"), **tests}


def without_marks(text: str) -> str:
    """HellaSwag's text without the marks that its WikiHow part carries, as lm-eval cleans it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _choice(key: str, question: str, choices: list[str], answer: int, *, context: str = "") -> dict[str, Any]:
    return {"id": key, "context": context, "question": question, "choices": choices, "answer": answer}


def _index(key: str) -> str:
    return key.rsplit("/", 1)[-1]
