"""`tclora tasks`: the table, one task as the model will see it, JSON, and errors."""

import json

import pytest

from tclora.cli.app import _status


def run(capsys, *words: str) -> tuple[int, str, str]:
    try:
        status = _status(["tasks", *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_table_lists_every_task(capsys):
    from tclora.evaluation.tasks import EVAL_TASKS

    status, out, _ = run(capsys)
    assert status == 0
    assert [name for name in EVAL_TASKS if name not in out] == []
    assert "25.0 %" in out and "10042" in out


def test_the_table_as_json(capsys):
    _, out, _ = run(capsys, "--json")
    rows = {row["name"]: row for row in json.loads(out.splitlines()[-1])["tasks"]}
    assert rows["piqa"]["metrics"] == ["acc_norm", "acc", "acc_token"] and rows["piqa"]["chance"] == 0.5
    assert rows["gsm_hard"]["runs_code"] is True and rows["gsm_hard"]["chance"] is None


@pytest.fixture
def yaml(tmp_path) -> str:
    (tmp_path / "quiz.jsonl").write_text('{"q": "Sky?", "choices": ["red", "blue"], "answer": 1}\n')
    (tmp_path / "quiz.yaml").write_text('kind: choice\npath: quiz.jsonl\nprompt: "Q: {q}\\nA:"\n')
    return str(tmp_path / "quiz.yaml")


def test_one_task_shows_its_first_prompt(capsys, yaml):
    status, out, _ = run(capsys, yaml)
    assert status == 0
    assert "Q: Sky?\nA:" in out and "' red', ' blue'" in out and "acc 0.5" in out


def test_one_task_as_json(capsys, yaml):
    _, out, _ = run(capsys, yaml, "--template", "--json")
    shown = json.loads(out.splitlines()[-1])
    assert shown["first"] == {"id": "0", "prompt": "Q: Sky?\nA:", "scored": ["red", "blue"], "right": 1}
    assert shown["prompt_format"] == "template" and shown["n_items"] == 1


def test_an_unknown_task_ends_with_status_2(capsys):
    status, out, err = run(capsys, "hellaswg", "--json")
    assert status == 2 and "did you mean hellaswag" in err
    assert json.loads(out)["error"] == "UnknownNameError"


def test_a_mistake_in_the_yaml_ends_with_status_2(capsys, yaml, tmp_path):
    (tmp_path / "quiz.yaml").write_text('kind: choice\npath: quiz.jsonl\nprompt: "Q: {question}"\n')
    status, _, err = run(capsys, yaml)
    assert status == 2 and "names a column that the data do not have: question" in err
