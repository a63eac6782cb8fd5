"""Benchmarks from the Hub: rows in its schemas become the shared schema, are kept, and failures say what to do.

No network is used: `datasets.load_dataset` is replaced by rows in the columns that lm-eval's task files and the sets'
cards state.
"""

import builtins
import json
from types import SimpleNamespace

import pytest

from tclora.errors import DataError, MissingExtraError
from tclora.evaluation.tasks import EVAL_TASKS, load_task
from tclora.evaluation.tasks.hub import HUB_SETS
from tclora.evaluation.tasks.hub_rows import BBH_CHOICE

ARC = {"id": "M1", "question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"}
BBH = {
    "boolean_expressions": {"input": "not True is", "target": "False"},
    "causal_judgement": {"input": "Did he?\nOptions:\n- Yes\n- No", "target": "No"},
    "date_understanding": {"input": "When?\nOptions:\n(A) 1/1\n(B) 2/2", "target": "(B)"},
    "ruin_names": {"input": "Funny?\nOptions:\n(A) a\n(B) b", "target": "dearth, wind, & fire"},
}
ROWS = {
    ("aps/super_glue", "boolq", "validation"): [{"passage": "A -- b.", "question": "is it", "idx": 0, "label": 1}],
    ("baber/piqa", None, "validation"): [{"goal": "Sit?", "sol1": "on it", "sol2": "under it", "label": 0}],
    ("Rowan/hellaswag", None, "validation"): [
        {
            "activity_label": "Roof",
            "ctx_a": "A man sits.",
            "ctx_b": "he",
            "endings": ["[title] Falls.", "wins [step] it.", "c", "d"],
            "label": "1",
        }
    ],
    ("allenai/winogrande", "winogrande_xl", "validation"): [
        {"sentence": "Ann saw Bo as _ left.", "option1": "Ann", "option2": "Bo", "answer": "2"}
    ],
    ("allenai/ai2_arc", "ARC-Easy", "test"): [ARC],
    ("allenai/ai2_arc", "ARC-Challenge", "test"): [ARC],
    ("allenai/openbookqa", "main", "test"): [
        {"id": "8", "question_stem": "Fog is", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B "}
    ],
    ("openai/gsm8k", "main", "test"): [{"question": "How many?", "answer": "2+3=<<2+3=5>>5.\n#### 1,005"}],
    ("openai/gsm8k", "main", "train"): [
        {"question": f"What is {i}?", "answer": f"<<{i}>>It.\n#### {i}"} for i in range(5)
    ],
    ("ChilleD/SVAMP", None, "train"): [
        {"ID": "chal-2", "Body": "There are 2 cats", "Question": "How many?", "Equation": "2", "Answer": "2.0"}
    ],
    ("ChilleD/SVAMP", None, "test"): [
        {"ID": "chal-1", "Body": "One dog.", "Question": "How many?", "Equation": "1", "Answer": "1"}
    ],
    ("reasoning-machines/gsm-hard", None, "train"): [{"input": "How?", "code": "def solution(): pass", "target": -7.5}],
    ("openai/openai_humaneval", None, "test"): [
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "x", "test": "t"}
    ],
    ("google-research-datasets/mbpp", "full", "test"): [
        {"task_id": 11, "text": "Add.", "code": "a\r\nb", "test_list": ["assert f() == 1"], "test_setup_code": ""}
    ],
    ("google-research-datasets/mbpp", "full", "prompt"): [
        {"task_id": i, "text": f"T{i}", "code": "c", "test_list": ["assert g()"], "test_setup_code": ""}
        for i in range(1, 11)
    ],
} | {("SaylorTwift/bbh", name, "test"): [BBH.get(name, BBH["date_understanding"])] for name in BBH_CHOICE}
ROWS |= {
    ("SaylorTwift/bbh", name, "test"): [{"input": "Close: [", "target": "]"}]
    for name in ("dyck_languages", "multistep_arithmetic_two", "object_counting", "word_sorting")
}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> list[tuple]:
    """A Hub of small sets; gives the calls made to it."""
    import sys

    calls = []

    def load_dataset(name, config, *, split):
        calls.append((name, config, split))
        if (name, config, split) not in ROWS:
            raise ConnectionError("Couldn't reach\nthe Hub")
        return ROWS[name, config, split]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setenv("TCLORA_CACHE", str(tmp_path / "cache"))
    for name in ("TCLORA_DATA", "TCLORA_SHARED"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize("name", EVAL_TASKS)
def test_every_benchmark_comes_from_the_hub_once(hub, name):
    task = load_task(name)
    assert hub and task.items()
    made = list(hub)
    assert load_task(name).items() == task.items()
    assert hub == made


def read(tmp_path, name: str) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "cache" / f"{name}.jsonl").read_text().splitlines()]


def choice(row: dict) -> tuple:
    return row["context"], row["question"], row["choices"], row["answer"]


EXPECTED = {
    "boolq": ("A -- b.", "is it?", ["no", "yes"], 1),
    "piqa": ("", "Sit?", ["on it", "under it"], 0),
    "hellaswag": ("", "Roof: A man sits. He", [" Falls.", "wins it.", "c", "d"], 1),
    "winogrande": ("", "Ann saw Bo as _ left.", ["Ann", "Bo"], 1),
    "arc_easy": ("", "Sky?", ["red", "blue"], 1),
    "openbookqa": ("", "Fog is", ["a", "b"], 1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_take_the_shared_schema(hub, tmp_path, name):
    load_task(name)
    assert [choice(row) for row in read(tmp_path, f"eval/{name}")] == [EXPECTED[name]]


def test_options_of_bbh_are_taken_from_the_question_or_the_subtask(hub, tmp_path):
    task = load_task("bbh")
    rows = {row["task"]: choice(row) for row in read(tmp_path, "eval/bbh_choice")}
    assert rows["boolean_expressions"] == ("", "not True is", ["False", "True"], 0)
    assert rows["causal_judgement"] == ("", "Did he?", ["Yes", "No"], 1)
    assert rows["date_understanding"] == ("", "When?", ["1/1", "2/2"], 1)
    # Its key is none of its options, as in 4 rows upstream, so it is left out.
    assert len(rows) == len(BBH_CHOICE) - 1 and "ruin_names" not in rows
    assert {item.group for item in task.items()} == set(rows)


def test_numbers_and_calculator_marks(hub, tmp_path):
    assert load_task("gsm8k").items()[0].gold == 1005.0
    assert read(tmp_path, "eval/gsm8k")[0]["solution"] == "2+3=5."
    assert "<<" not in load_task("gsm8k").items()[0].ask.prompt.text
    assert load_task("gsm_hard").items()[0].gold == -7.5
    assert [item.id for item in load_task("svamp", shots=0).items()] == ["chal-2", "chal-1"]
    assert "\r" not in (tmp_path / "cache/eval/gsm8k.jsonl").read_text()


def test_a_set_that_cannot_be_had_says_what_to_do(hub, monkeypatch):
    monkeypatch.delitem(ROWS, ("baber/piqa", None, "validation"))
    with pytest.raises(DataError, match=r"baber/piqa[\s\S]*ConnectionError: Couldn't reach the Hub[\s\S]*TCLORA_DATA"):
        load_task("piqa")


def test_a_set_that_has_changed_says_so(hub, monkeypatch):
    monkeypatch.setitem(ROWS, ("baber/piqa", None, "validation"), [{"goal": "Sit?"}])
    with pytest.raises(DataError, match=r"a row of the Hub is not what it was[\s\S]*row 0[\s\S]*KeyError"):
        load_task("piqa")


def test_an_empty_set_leaves_nothing_behind(hub, monkeypatch, tmp_path):
    monkeypatch.setitem(ROWS, ("baber/piqa", None, "validation"), [])
    with pytest.raises(DataError, match="has no rows"):
        load_task("piqa")
    assert not (tmp_path / "cache").exists()


def test_without_the_package_the_extra_is_named(hub, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"tclora\[eval\]"):
        load_task("piqa")


def test_a_named_folder_is_never_left_for_the_hub(hub, tmp_path):
    with pytest.raises(DataError, match="the data folder lacks"):
        load_task("piqa", data=tmp_path)
    assert hub == []


def test_every_file_of_the_registry_has_a_set():
    assert {f"eval/{entry.facts['file']}" for entry in EVAL_TASKS.entries()} <= set(HUB_SETS)
