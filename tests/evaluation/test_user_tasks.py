"""A user's own file as a task in a few lines of YAML: every kind, and what is said of every mistake."""

import json
from pathlib import Path

import pytest

from tclora.errors import ConfigError, DataError, TcLoraError
from tclora.evaluation.tasks import Continuation, Generation, Likelihoods, Prompt, Task, load_task
from tclora.evaluation.tasks.scorers import ChoiceGold


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = [
        {"q": "Sky?", "options": ["red", "blue"], "key": 1, "subject": "color", "name": "s"},
        {"q": "Rose?", "options": ["red", "blue", "x"], "key": "A", "subject": "flower", "name": "r"},
    ]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.csv").write_text('question,answer\n1+1?,2\n"Costs, in $?","$1,000"\n')
    (tmp_path / "notes.jsonl").write_text('{"text": "A long story.", "answer": ["A story", "a tale"]}\n')
    (tmp_path / "train.jsonl").write_text('{"instruction": "Say hi.", "input": "Ann", "output": "Hi, Ann."}\n')
    return tmp_path


def task(folder: Path, yaml: str, **options) -> Task:
    (folder / "mine.yaml").write_text(yaml)
    return load_task(folder / "mine.yaml", **options)


QUIZ = """kind: choice
path: quiz.jsonl
prompt: "Question: {q}\\nAnswer:"
fields: {choices: options, answer: key}
"""


def test_five_lines_make_a_choice_task(folder):
    mine = task(folder, QUIZ)
    assert isinstance(mine, Task) and mine.name == "mine"
    first, second = mine.items()
    assert first.ask == tuple(Continuation(Prompt("Question: Sky?\nAnswer:"), text) for text in (" red", " blue"))
    assert (first.gold, second.gold) == (ChoiceGold(("red", "blue"), 1), ChoiceGold(("red", "blue", "x"), 0))
    assert mine.chance["acc"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert mine.score(first, Likelihoods((-2.0, -1.0), (1, 1), (False, True)))["acc"] == 1.0
    assert mine.facts["file"] == "quiz.jsonl" and mine.facts["kind"] == "choice" and mine.facts["shots"] == 0
    assert not mine.runs_code


def test_ids_groups_and_the_template(folder):
    mine = task(folder, QUIZ.replace("answer: key", "answer: key, id: name, group: subject") + "plain: false\n")
    assert [(item.id, item.group) for item in mine.items()] == [("s", "color"), ("r", "flower")]
    assert mine.items()[0].ask[0] == Continuation(Prompt("Question: Sky?\nAnswer:", plain=False), "red")
    assert task(folder, QUIZ, plain=False).items()[0].ask[0].prompt.plain is False


@pytest.mark.parametrize(
    ("key", "answer"),
    [(0, 0), (1.0, 1), ("1", 1), ("B", 1), ("b", 1), ("blue", 1), (" blue ", 1), ("red", 0)],
)
def test_ways_to_write_the_right_choice(folder, key, answer):
    (folder / "quiz.jsonl").write_text(json.dumps({"q": "Sky?", "options": ["red", "blue"], "key": key}) + "\n")
    assert task(folder, QUIZ).items()[0].gold.answer == answer


def test_a_text_that_is_a_choice_is_no_index(folder):
    (folder / "quiz.jsonl").write_text('{"q": "1+1?", "options": ["1", "2", "0"], "key": "2"}\n')
    assert task(folder, QUIZ).items()[0].gold.answer == 1


def test_a_column_for_each_choice_from_csv(folder):
    (folder / "quiz.csv").write_text("q,a,b,key\nSky?,red,blue,B\n")
    mine = task(folder, QUIZ.replace("quiz.jsonl", "quiz.csv").replace("choices: options", "choices: [a, b]"))
    assert mine.items()[0].gold == ChoiceGold(("red", "blue"), 1)


def test_a_numeric_task_reads_numbers_from_text(folder):
    mine = task(folder, 'kind: numeric\npath: sums.csv\nprompt: "({question}) {{in $}}="\nmax_new_tokens: 9\n')
    first, second = mine.items()
    assert first.ask == Generation(Prompt("(1+1?) {in $}="), 9, ("\n\n",))
    assert (first.gold, second.gold) == (2.0, 1000.0)
    assert mine.score(second, "about 1,001") == {"numeric_exact": 0.0, "numeric": 1.0}


def test_a_rouge_task_takes_several_references(folder):
    mine = task(folder, 'kind: rouge\npath: notes.jsonl\nprompt: "{text}\\nTL;DR:"\nstop: ["##"]\n')
    assert mine.items()[0].gold == ("A story", "a tale")
    assert mine.score(mine.items()[0], "A tale ## B")["rouge_l"] == 1.0


def test_an_exact_match_task_ends_at_the_line(folder):
    mine = task(folder, 'kind: exact_match\npath: sums.csv\nprompt: "{question}"\n')
    assert mine.score(mine.items()[0], " 2\n3")["exact_match"] == 1.0
    assert (
        task(folder, 'kind: exact_match\npath: sums.csv\nprompt: "{question}"\nplain: false').items()[0].ask.stop == ()
    )


def test_a_loss_task_with_and_without_a_prompt(folder):
    asked = task(folder, 'kind: loss\npath: train.jsonl\nprompt: "{instruction}"\nfields: {answer: output}\n')
    assert asked.items()[0].ask == (Continuation(Prompt("Say hi."), " Hi, Ann."),)
    trained = task(folder, "kind: loss\npath: train.jsonl\n")
    assert trained.items()[0].ask == (Continuation(Prompt("Say hi.\nAnn", plain=False), "Hi, Ann."),)
    assert trained.lower_is_better == trained.metrics == ("loss", "nats")
    assert trained.facts["prompt_format"] == "template"


def test_shots_come_from_their_own_file(folder):
    (folder / "shots.jsonl").write_text(
        '{"q": "Sea?", "options": ["red", "blue"], "key": 1}\n{"q": "Blood?", "options": ["red", "blue"], "key": 0}\n'
    )
    mine = task(folder, QUIZ + "shots: 2\nfewshot: shots.jsonl\n")
    shown = "Question: Sea?\nAnswer: blue\n\nQuestion: Blood?\nAnswer: red\n\nQuestion: Sky?\nAnswer:"
    assert mine.items()[0].ask[0].prompt.text == shown
    assert task(folder, QUIZ + "shots: 2\nfewshot: shots.jsonl\n", shots=0).items() == task(folder, QUIZ).items()
    (folder / "shots.jsonl").write_text((folder / "quiz.jsonl").read_text())
    with pytest.raises(DataError, match="a few-shot example is a test item"):
        task(folder, QUIZ + "shots: 1\nfewshot: shots.jsonl\n")


def test_a_limit_of_the_caller_goes_first(folder):
    assert len(task(folder, QUIZ + "limit: 1\n").items()) == 1
    assert len(task(folder, QUIZ + "limit: 1\n", limit=2).items()) == 2


def test_a_dollar_in_the_prompt_is_no_variable(folder, monkeypatch):
    monkeypatch.setenv("QUIZ_HOME", str(folder))
    mine = task(folder, QUIZ.replace("path: quiz", "path: $QUIZ_HOME/quiz").replace("Question:", "$5 and $QUIZ_HOME:"))
    assert mine.items()[0].ask[0].prompt.text.startswith("$5 and $QUIZ_HOME: Sky?")


# The YAML, and what the message must hold.
BAD_YAML = {
    "an unknown kind": (QUIZ.replace("choice", "multiple_choice", 1), r"Input should be 'choice'[\s\S]*: kind"),
    "a misspelt key": (QUIZ.replace("prompt", "promt"), r"promt[\s\S]*did you mean 'prompt'"),
    "a misspelt field": (QUIZ.replace("choices:", "choice:"), r"fields\.choice[\s\S]*did you mean 'choices'"),
    "no path": (QUIZ.replace("path: quiz.jsonl\n", ""), r"Field required: path"),
    "no prompt": ("kind: choice\npath: quiz.jsonl\n", "a task of kind choice needs a prompt"),
    "a doubled key": (QUIZ + "kind: loss\n", r"'kind' is given twice[\s\S]*line 5"),
    "an unpaired brace": (QUIZ.replace("{q}", "{q"), "braces do not pair"),
    "an empty name": (QUIZ.replace("{q}", "{}"), "no plain column name"),
    "a format mark": (QUIZ.replace("{q}", "{q!r:>9}"), r"no plain column name[\s\S]*\{q!r:>9\}"),
    "a column that is not there": (
        QUIZ.replace("{q}", "{qq}"),
        r"prompt names a column[\s\S]*qq[\s\S]*did you mean 'q'",
    ),
    "attributes are not read": (QUIZ.replace("{q}", "{q.__class__}"), r"data do not have: q\.__class__"),
    "a field that is not there": (QUIZ.replace("options", "opts"), r"fields\.choices names a column[\s\S]*'options'"),
    "an idle key": (QUIZ + "stop: [x]\n", "stop does nothing in a task of kind choice"),
    "idle choices": (
        QUIZ.replace("kind: choice", "kind: exact_match"),
        r"fields\.choices does nothing in a task of kind exact_match",
    ),
    "shots from nowhere": (QUIZ + "shots: 2\n", "shots need fewshot"),
    "a negative limit": (QUIZ + "limit: 0\n", r"greater than or equal to 1: limit"),
    "a hostile name": (QUIZ + "name: ../../etc\n", r"should match pattern[\s\S]*: name"),
    "python in YAML": (QUIZ + "name: !!python/object/apply:os.system [x]\n", "tags are not read"),
    "a list": ("- kind\n", "not a mapping"),
    "fields of examples": ("kind: loss\npath: train.jsonl\nfields: {answer: output}\n", "without a prompt the data"),
}


@pytest.mark.parametrize(("yaml", "text"), BAD_YAML.values(), ids=BAD_YAML)
def test_mistakes_in_the_yaml_are_named(folder, yaml, text):
    with pytest.raises(ConfigError, match=text) as error:
        task(folder, yaml)
    assert "mine.yaml" in str(error.value)


def quiz_row(**columns) -> dict:
    return {"q": "Sky?", "options": ["red", "blue"], "key": 1} | columns


# The second row, and what the message must hold.
BAD_ROWS = {
    "an index too large": (quiz_row(key=2), "a number from 0 to 1"),
    "a letter too far": (quiz_row(key="C"), "'key' is none of the choices"),
    "a boolean": (quiz_row(key=True), "none of the choices"),
    "no answer": (quiz_row(key=None), "none of the choices"),
    "another text": (quiz_row(key="green"), "found     'green'"),
    "one choice": (quiz_row(options=["red"]), "two or more choices"),
    "an empty choice": (quiz_row(options=["red", " "]), "none empty"),
    "choices in one text": (quiz_row(options="red|blue"), r"not a list of choices[\s\S]*choices: \[first, second\]"),
    "a number that is no text": (quiz_row(options=["red", float("inf")]), r"options\[1\]' is not text"),
    "no question": (quiz_row(q=None), "'q' is not text"),
    "a missing column": ({"options": ["a", "b"], "key": 0}, "a row has no 'q'"),
}


@pytest.mark.parametrize(("row", "text"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_mistakes_in_a_row_are_named_with_their_line(folder, row, text):
    (folder / "quiz.jsonl").write_text(json.dumps(quiz_row()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=text) as error:
        task(folder, QUIZ)
    assert "quiz.jsonl:2" in str(error.value)


OTHER_MISTAKES = {
    "no such data": ('kind: numeric\npath: nowhere.csv\nprompt: "{q}"', "no data file matches"),
    "no number": ('kind: numeric\npath: notes.jsonl\nprompt: "{text}"', r"'answer' is not text[\s\S]*notes\.jsonl:1"),
    "words for a number": (
        'kind: numeric\npath: train.jsonl\nprompt: "{input}"\nfields: {answer: output}',
        r"'output' is not a number[\s\S]*train\.jsonl:1",
    ),
    "an unknown ending": ('kind: loss\npath: mine.yaml\nprompt: "{q}"', "name does not tell what it holds"),
    "ids given twice": (
        QUIZ.replace("answer: key", "answer: key, id: same"),
        r"two rows have one id[\s\S]*same\.jsonl:2[\s\S]*same\.jsonl:1",
    ),
    "a conversation": ("kind: loss\npath: chat.jsonl", r"turns before its instruction[\s\S]*chat\.jsonl, example 1"),
    "an empty answer": (
        'kind: exact_match\npath: empty.csv\nprompt: "{question}"',
        r"'answer' is empty[\s\S]*empty\.csv:2",
    ),
}


@pytest.mark.parametrize(("yaml", "text"), OTHER_MISTAKES.values(), ids=OTHER_MISTAKES)
def test_other_mistakes_are_named(folder, yaml, text):
    (folder / "same.jsonl").write_text((json.dumps(quiz_row(same="x")) + "\n") * 2)
    (folder / "empty.csv").write_text('question,answer\n1+1?," "\n')
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(TcLoraError, match=text):
        task(folder, yaml.replace("quiz.jsonl", "same.jsonl"))


def test_a_worked_solution_ends_in_its_number(folder):
    (folder / "sums.jsonl").write_text('{"question": "1+1?", "answer": "One and one.\\n#### 2"}\n')
    assert task(folder, 'kind: numeric\npath: sums.jsonl\nprompt: "{question}"').items()[0].gold == 2.0


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such task file[\s\S]*none\.yaml[\s\S]*tclora tasks"):
        load_task(str(tmp_path / "none.yaml"))
