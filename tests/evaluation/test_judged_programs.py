"""Programs judged side by side and once: the values kept on disk, the sandbox's word, shots for single tasks."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tclora.cli.evaluate import _shots
from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, NumericalError
from tclora.evaluation.many import JudgedStore, judged_name, score_task
from tclora.evaluation.tasks import BuiltTask, Generation, Item, Prompt
from tclora.pipeline.evaluations.request import EvaluateManyRequest, make_plan
from tclora.pipeline.evaluations.sandbox import in_one_sandbox
from tclora.reporting import many_table
from tclora.sandbox import Sandbox, available

FACTS = {"shots": 0, "limit": 4, "sandbox": {"backend": "bubblewrap"}}
ITEMS = tuple(Item(str(n), Generation(Prompt(f"Q{n}"), 4), n) for n in range(4))
ANSWERS = [["a", "b", "c", "d"], ["a", "b", "x", "y"], ["a", "b", "c", "y"]]
# Six different pairs of item and answer among twelve.
N_DIFFERENT = 6


def task_of(score, **changes) -> BuiltTask:
    task = BuiltTask("code", ("pass",), ITEMS, lambda item, answer, _: score(item, answer), FACTS, runs_code=True)
    return replace(task, **({"sandbox": object.__new__(Sandbox)} | changes))


def counted(calls):
    def score(item, answer):
        calls.append((item.id, answer))
        return {"pass": float(ord(answer[0]) % 2)}

    return score


def test_values_are_those_of_one_by_one_whatever_the_workers():
    def score(item, answer):
        # The first is the slowest, so that order and speed disagree.
        time.sleep(0.02 if item.id == "0" else 0.0)
        return {"pass": item.gold + ord(answer) / 1000}

    expected = np.array([[ITEMS[i].gold + ord(own[i]) / 1000 for own in ANSWERS] for i in range(4)])
    for workers in (1, 3):
        assert (score_task(task_of(score), ANSWERS, workers=workers).values["pass"] == expected).all()


def test_programs_run_side_by_side():
    meeting = threading.Barrier(2, timeout=20)

    def score(item, answer):
        # Six calls by twos: each waits for another one, which a single worker would never send.
        meeting.wait()
        return {"pass": 1.0}

    assert score_task(task_of(score), ANSWERS, workers=2).values["pass"].all()


def test_kept_values_are_not_made_again(tmp_path):
    calls, told = [], []
    task = task_of(counted(calls))
    for _ in range(2):
        store = JudgedStore(tmp_path / judged_name(task))
        made = score_task(
            task, ANSWERS, workers=2, kept=store, on_progress=lambda done, total: told.append((done, total))
        )
        store.close()
    assert len(calls) == N_DIFFERENT and told[-1] == (N_DIFFERENT, N_DIFFERENT)
    assert (made.values["pass"] == score_task(task, ANSWERS).values["pass"]).all()


def test_a_kill_loses_only_what_was_running(tmp_path):
    calls = []

    def dying(item, answer):
        if item.id == "3":
            raise KeyboardInterrupt
        return counted(calls)(item, answer)

    path = tmp_path / "judged"
    with pytest.raises(KeyboardInterrupt):
        score_task(task_of(dying), ANSWERS, kept=JudgedStore(path))
    assert len(calls) == 4
    # Half a line, as a kill in the middle of writing leaves it.
    path.write_bytes(path.read_bytes() + b'["half')
    store = JudgedStore(path)
    score_task(task_of(counted(calls)), ANSWERS, kept=store)
    assert len(calls) == N_DIFFERENT
    store.close()
    score_task(task_of(counted(calls)), ANSWERS, kept=JudgedStore(path))
    assert len(calls) == N_DIFFERENT


def test_what_decides_a_value_decides_where_it_is_kept():
    task = task_of(counted([]))
    name = judged_name(task)
    assert judged_name(replace(task, facts=FACTS | {"limit": 9, "seed": 1})) == name
    changed = [{"facts": FACTS | {"sandbox": {"backend": "none"}}}, {"facts": FACTS | {"shots": 1}}, {"name": "other"}]
    assert len({name, *(judged_name(replace(task, **change)) for change in changed)}) == 4


@pytest.mark.parametrize("item", [replace(ITEMS[0], gold=5), replace(ITEMS[0], ask=Generation(Prompt("Q"), 4))])
def test_another_item_is_judged_anew(tmp_path, item):
    calls = []
    for one in (ITEMS[0], item):
        store = JudgedStore(tmp_path / "judged")
        score_task(task_of(counted(calls), built=(one,)), [["a"]], kept=store)
        store.close()
    assert len(calls) == 2


def test_a_changed_line_is_not_believed(tmp_path):
    calls, path = [], tmp_path / "judged"
    for _ in range(2):
        store = JudgedStore(path)
        score_task(task_of(counted(calls), built=ITEMS[:1]), [["a"]], kept=store)
        store.close()
        path.write_text(path.read_text().replace('{"pass": 1.0}', '{"pass": 0.0}'))
    assert len(calls) == 2


def test_a_value_that_is_not_finite_is_refused_and_not_kept(tmp_path):
    store = JudgedStore(tmp_path / "judged")
    with pytest.raises(NumericalError, match="code, item 0"):
        score_task(task_of(lambda *_: {"pass": float("nan")}), ANSWERS, kept=store)
    assert not store.path.exists()


def test_tasks_without_code_need_no_sandbox():
    task = task_of(counted([]), runs_code=False)
    assert in_one_sandbox((task,), "landlock") == ((task,), None)


def test_unsafe_none_is_said_loudly_and_recorded():
    (task,), line = in_one_sandbox((task_of(counted([]), sandbox=None),), "unsafe-none")
    assert line is not None and line.startswith("NO SANDBOX: generated code runs with your rights")
    assert task.facts["sandbox"]["backend"] == "none" and task.facts["sandbox"]["gaps"]


def test_the_table_marks_figures_made_without_a_sandbox(many_record):
    (first, *others) = many_record.tasks
    marked = replace(many_record, tasks=(replace(first, facts={"sandbox": {"backend": "none"}}), *others))
    assert "NO SANDBOX" in many_table(marked)[0][2] and "NO SANDBOX" not in str(many_table(many_record))


def test_one_back_end_serves_all_tasks():
    usable = [level.backend for level in available() if level.usable]
    if not usable:
        pytest.skip("no sandbox works on this machine")
    task = task_of(counted([]), sandbox=None)
    (one, two), line = in_one_sandbox((task, replace(task, name="two")), usable[-1])
    assert one.sandbox is two.sandbox and usable[-1] in line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sandbox": "none"}, "auto, bubblewrap, landlock, unsafe-none"),
        ({"workers": 0}, "--workers"),
        ({"shots_of": (("mpbb", 1),)}, "one of the tasks: mbpp"),
        ({"shots_of": (("mbpp", 1),), "backend": "lm-eval"}, "one number for all with lm-eval"),
    ],
)
def test_settings_outside_their_range_are_refused(options, text):
    request = EvaluateManyRequest(base=BaseModelConfig(path="bundled"), tasks=("mbpp",), **options)
    with pytest.raises(ConfigError) as refused:
        make_plan(request)
    assert text in str(refused.value)


def test_shots_are_one_number_or_a_tasks_own():
    assert _shots([]) == {"shots": None, "shots_of": None}
    assert _shots(["3", "humaneval=0", "a=b.yaml=2"]) == {"shots": 3, "shots_of": (("humaneval", 0), ("a=b.yaml", 2))}


@pytest.mark.parametrize("words", [["x"], ["-1"], ["3", "4"], ["humaneval="], ["2.5"], ["٣"]])
def test_shots_that_are_no_number_are_refused(words):
    with pytest.raises(ConfigError, match="--shots is not a number of examples"):
        _shots(words)


def test_a_tasks_own_shots_go_before_the_others(monkeypatch):
    asked = {}

    def load(word, **options):
        asked[word] = options["shots"]
        return replace(task_of(counted([]), runs_code=False), name=word)

    monkeypatch.setattr("tclora.evaluation.tasks.load_task", load)
    base = BaseModelConfig(path="bundled")
    make_plan(EvaluateManyRequest(base=base, tasks=("a", "b"), shots=3, shots_of=(("b", 0),)))
    assert asked == {"a": 3, "b": 0}


@pytest.fixture
def many_record(folders, tiny_base, monkeypatch):
    """A small record of a text task."""
    from many_tasks import text_task

    from tclora.pipeline.evaluations.many import evaluate_many

    monkeypatch.setattr("tclora.pipeline.evaluations.many.load_base", lambda config: tiny_base)
    monkeypatch.setattr("tclora.pipeline.evaluations.request.check_base", lambda *_: [])
    monkeypatch.setattr("tclora.evaluation.tasks.load_task", lambda word, **options: text_task(word, n=2))
    base = BaseModelConfig(path="bundled")
    record = evaluate_many(EvaluateManyRequest(base=base, tasks=("a", "b"), n_bootstrap=100)).record
    assert json.dumps(record.sandbox) == "null"
    return record
