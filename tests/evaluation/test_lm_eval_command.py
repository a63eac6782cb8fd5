"""`tclora evaluate --backend lm-eval`: one base, adapters switched, lm-eval's figures; and it goes on where it was."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from lm_eval_cases import CHOICE, made_adapter, own_answers, task_file

from tclora.cli.app import _status
from tclora.evaluation.lm_eval_backend import LmEvalModel

pytest.importorskip("lm_eval")


def run(*words: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tclora", *map(str, words)])
        try:
            status = _status([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
    return int(status or 0), out.getvalue(), err.getvalue()


def command(folder: Path, adapter: Path, tasks: Path, **changes: object) -> list[object]:
    words: list[object] = ["evaluate", "bundled", "--tasks", "quiz", "--backend", "lm-eval", "--include-path", tasks]
    words += ["--out", folder / "out", "--n-bootstrap", 100, "--json"]
    for key, value in changes.items():
        words += [f"--{key.replace('_', '-')}", value]
    return [*words, "--adapters", adapter]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    adapter, tasks = made_adapter(folder / "made"), task_file(folder / "tasks", "quiz", **CHOICE)
    status, out, err = run(*command(folder, adapter, tasks))
    assert status == 0, err
    return folder, adapter, tasks, json.loads(out.strip().split("\n")[-1])


def test_both_figures_are_those_of_two_runs_of_lm_eval(done):
    _, adapter, tasks, result = done
    found = {one["adapter"]: one["score"]["value"] for one in result["figures"] if one["metric"] == "acc"}
    alone = own_answers(tasks, ["quiz"])["results"]["quiz"]["acc,none"]
    adapted = own_answers(tasks, ["quiz"], peft=str(adapter))["results"]["quiz"]["acc,none"]
    # The same eight zeros and ones, summed in another order.
    assert found == {"base": pytest.approx(alone, abs=1e-12), "made": pytest.approx(adapted, abs=1e-12)}


def test_the_record_says_whose_answers_they_are(done):
    _, _, _, result = done
    assert result["backend"] == "lm-eval"
    assert result["tasks"][0]["facts"]["source"] == "lm-eval"


def test_a_second_run_asks_the_model_nothing(done, monkeypatch):
    folder, adapter, tasks, result = done

    def asked(*_, **__):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(LmEvalModel, "answers", asked)
    status, out, err = run(*command(folder, adapter, tasks, seed=0), "--overwrite")
    assert status == 0, err
    assert json.loads(out.strip().split("\n")[-1])["figures"] == result["figures"]


def test_another_number_of_items_asks_for_what_is_new(done, monkeypatch):
    folder, adapter, tasks, _ = done
    monkeypatch.setattr(LmEvalModel, "answers", lambda *_, **__: pytest.fail("the model was asked"))
    # Its first three documents were answered before.
    status, _, err = run(*command(folder, adapter, tasks, limit=3), "--overwrite")
    assert status == 0, err


def test_an_unknown_task_is_refused_before_the_base_is_loaded(done, monkeypatch):
    import lm_eval.tasks

    import tclora.pipeline.evaluations.many

    class OnlyTheFolders(lm_eval.tasks.TaskManager):
        """Without lm-eval's own files, whose index takes seconds."""

        def __init__(self, include_path=None, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    folder, adapter, tasks, _ = done
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", OnlyTheFolders)
    monkeypatch.setattr(tclora.pipeline.evaluations.many, "load_base", lambda *_: pytest.fail("the base was loaded"))
    words = [word if word != "quiz" else "quizz" for word in command(folder / "new", adapter, tasks)]
    status, _, err = run(*words)
    assert (status, "UnknownNameError" in err, "one of quiz" in err) == (2, True, True)
