"""`tclora evaluate MODEL` from its words to its folder, on a tiny base and small tasks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from many_tasks import SHOTS, choice_task, text_task

from tclora.artifacts import read_manifest
from tclora.cli.app import _status
from tclora.cli.evaluate import is_run_file
from tclora.cli.many_values import spread
from tclora.config import BaseModelConfig
from tclora.errors import AdapterError, ConfigError, DataError, OutputExistsError
from tclora.evaluation.many import AnswerStore, Entrant
from tclora.pipeline.entrants import chosen_pairs, expand_entrants
from tclora.pipeline.evaluations.many import evaluate_many, plan_facts
from tclora.pipeline.evaluations.request import EvaluateManyRequest
from tclora.pipeline.progress import Silent
from tclora.records import ManyEvalRecord, from_json
from tclora.reporting import many_page

TASKS = {
    "choices": lambda **_: choice_task(),
    "shots": lambda **_: choice_task("shots", n=6, shots=SHOTS),
    "texts": lambda **_: text_task(),
    "code": lambda **_: replace(text_task("code"), runs_code=True),
    "empty": lambda **_: choice_task("empty", n=0),
    "twins": lambda **_: replace(choice_task("twins", n=1), built=choice_task(n=1).built * 2),
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tiny_base):
    """The tiny base under the bundled one's name, and the small tasks."""
    monkeypatch.setattr("tclora.pipeline.evaluations.many.load_base", lambda config: tiny_base)
    monkeypatch.setattr("tclora.pipeline.evaluations.request.check_base", lambda *_: [])
    monkeypatch.setattr("tclora.evaluation.tasks.load_task", lambda word, **options: TASKS[word](**options))


def request(folders, out=None, **options) -> EvaluateManyRequest:
    given = {"tasks": ("choices", "texts"), "n_bootstrap": 200, "batch_size": 4} | options
    out = None if out is None else str(out)
    return EvaluateManyRequest(base=BaseModelConfig(path="bundled"), adapters=tuple(folders), out=out, **given)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(folders, tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tclora.pipeline.evaluations.many.load_base", lambda config: tiny_base)
        patch.setattr("tclora.pipeline.evaluations.request.check_base", lambda *_: [])
        patch.setattr("tclora.evaluation.tasks.load_task", lambda word, **options: TASKS[word](**options))
        return evaluate_many(request(folders[:2], out)), out


def test_the_folder_holds_everything_and_the_record_comes_back(finished):
    result, out = finished
    assert from_json(ManyEvalRecord, json.loads((out / "results.json").read_text())) == result.record
    assert [entrant.name for entrant in result.record.entrants] == ["base", "cluster-0", "cluster-1"]
    assert [entrant.rank for entrant in result.record.entrants] == [0, 1, 2]
    assert set(read_manifest(out).outputs) == {"results.json", "results.md", "items/choices.jsonl", "items/texts.jsonl"}


def test_items_explain_the_figures(finished):
    result, out = finished
    lines = [json.loads(line) for line in (out / "items" / "choices.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 10
    own = [line["values"]["acc"] for line in lines if line["adapter"] == "cluster-1"]
    figure = next(f for f in result.record.figures if (f.adapter, f.task, f.metric) == ("cluster-1", "choices", "acc"))
    assert figure.score.value == sum(own) / len(own)
    assert len(lines[0]["answer"]["sums"]) == 2


def test_prompts_are_recorded_word_for_word(finished):
    task = finished[0].record.tasks[0]
    assert task.first_prompt == "Q: what is 0 and ? A:⟨scored⟩ yes"
    assert len(task.prompts_sha256) == 64


def test_the_page_says_it_all(finished):
    page = (finished[1] / "results.md").read_text()
    assert page == many_page(finished[0].record)
    for text in ("| chance |", "50.0%", "cluster-1", "mcnemar", "Holm", "Wilson", "Q: what is 0 and ? A:", "part-1"):
        assert text in page


def test_a_finished_evaluation_is_not_touched(finished, folders, monkeypatch):
    result, out = finished
    before = contents(out)
    monkeypatch.setattr("tclora.pipeline.evaluations.many.load_base", None)
    assert evaluate_many(request(folders[:2], out)).record == result.record
    assert contents(out) == before


def test_killed_and_started_again_it_ends_with_the_same_bytes(finished, folders, tmp_path, monkeypatch):
    out, add, left = tmp_path / "out", AnswerStore.add, [4]

    def dying(store, answers):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        add(store, answers)

    monkeypatch.setattr(AnswerStore, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate_many(request(folders[:2], out))
    assert read_manifest(out) is None
    monkeypatch.setattr(AnswerStore, "add", add)
    evaluate_many(request(folders[:2], out))
    whole, again = contents(finished[1]), contents(out)
    kept = [name for name in whole if name.startswith(("results", "items"))]
    assert {name: again[name] for name in kept} == {name: whole[name] for name in kept}


def test_another_request_needs_overwrite_and_then_keeps_the_answers(folders, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate_many(request(folders[:1], out, tasks=("choices",)))
    with pytest.raises(OutputExistsError, match="another evaluation"):
        evaluate_many(request(folders[:2], out, tasks=("choices",)))
    counts, add = [], AnswerStore.add
    monkeypatch.setattr(AnswerStore, "add", lambda s, a: add(s, [counts.append(1) or pair for pair in a]))
    result = evaluate_many(request(folders[:2], out, tasks=("choices",), overwrite=True))
    assert len(result.record.entrants) == 3 and len(counts) == 10


def test_changed_results_are_noticed_and_made_again(folders, tmp_path):
    out = tmp_path / "out"
    evaluate_many(request(folders[:1], out, tasks=("choices",)))
    sound = (out / "results.md").read_bytes()
    (out / "results.md").write_text("we won")
    with pytest.raises(OutputExistsError, match="its files were changed"):
        evaluate_many(request(folders[:1], out, tasks=("choices",)))
    evaluate_many(request(folders[:1], out, tasks=("choices",), overwrite=True))
    assert (out / "results.md").read_bytes() == sound


def test_a_folder_of_something_else_is_left_alone(folders, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="not an evaluation"):
        evaluate_many(request(folders[:1], tmp_path, overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tasks": ()}, ConfigError, "no task is named"),
        ({"tasks": ("code",)}, ConfigError, "--allow-code-execution"),
        ({"tasks": ("empty",)}, DataError, "no items"),
        ({"tasks": ("twins",)}, DataError, "two items with the id 0"),
        ({"tasks": ("texts", "texts")}, ConfigError, "two tasks have one name"),
        ({"template": "chat"}, ConfigError, "--template"),
        ({"batch_size": 0}, ConfigError, "--batch-size"),
        ({"pairs": ("base:nobody",)}, ConfigError, "names no two adapters"),
        ({"seed": -1}, ConfigError, "--seed"),
        ({"data": "/nowhere"}, ConfigError, "no such folder of benchmark files"),
        ({"adapters": ()}, None, ""),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(folders, tmp_path, options, error, text):
    out = tmp_path / "out"
    wanted = replace(request(folders[:1], out), **options)
    if error is None:
        assert [e.name for e in evaluate_many(wanted).record.entrants] == ["base"]
        return
    with pytest.raises(error, match=text):
        evaluate_many(wanted)
    assert not out.exists()


def test_code_runs_in_one_sandbox_whose_level_is_told_and_recorded(folders, monkeypatch):
    from tclora.evaluation.tasks import BuiltTask
    from tclora.sandbox import Sandbox, available

    if not available():
        pytest.skip("no sandbox works on this machine")
    jails = []

    def score(item, answer, sandbox: Sandbox):
        jails.append(sandbox)
        return {"pass": float(len(answer) % 2)}

    task = BuiltTask("code", ("pass",), text_task(n=2).built, score, {"shots": 0}, runs_code=True)
    monkeypatch.setitem(TASKS, "code", lambda **_: task)
    notes = []

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    result = evaluate_many(request(folders[:1], tasks=("code",), allow_code_execution=True), Told())
    assert len({id(jail) for jail in jails}) == 1
    assert result.record.tasks[0].facts["sandbox"]["backend"] == jails[0].facts["backend"]
    assert any("sandbox" in note and str(jails[0].facts["backend"]) in note for note in notes)


def test_prompts_that_do_not_fit_are_told_and_recorded(monkeypatch):
    monkeypatch.setitem(TASKS, "choices", lambda **_: choice_task(n=3, shots=SHOTS * 9))
    notes = []

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    record = evaluate_many(request([], tasks=("choices", "texts")), Told()).record
    (note,) = notes
    assert record.notes == (note,) and "choices: 3 of 3 prompts are longer than the window of 256" in note


def test_examples_of_one_task_are_asked_for_by_its_file_or_by_its_name(monkeypatch, folders):
    given = []

    def load(word, **options):
        given.append((word, options["shots"]))
        return choice_task("quiz")

    monkeypatch.setattr("tclora.evaluation.tasks.load_task", load)
    for name in ("./quiz.yaml", "quiz"):
        plan_facts(request(folders[:1], tasks=("./quiz.yaml",), shots=1, shots_of=((name, 3),)))
        assert given[-1] == ("./quiz.yaml", 3)
    with pytest.raises(ConfigError, match=r"(?s)--shots.*quizz.*one of the tasks: quiz"):
        plan_facts(request(folders[:1], tasks=("./quiz.yaml",), shots_of=(("quizz", 3),)))


def test_without_an_output_nothing_is_left(folders, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert evaluate_many(request(folders[:1], tasks=("choices",))).out is None
    assert list(tmp_path.iterdir()) == []


def test_the_plan_says_what_would_be_done(folders, tmp_path):
    facts = plan_facts(request(folders, tmp_path / "out"))
    assert facts["tasks"] == {"choices": 10, "texts": 5}
    assert facts["n_questions"] == 4 * 15 and len(facts["pairs"]) == 6
    assert not (tmp_path / "out").exists()


def test_the_command_takes_several_words_and_prints_json(folders, tmp_path, capsys):
    words = ["evaluate", "bundled", "--adapters", *folders[:2], "--tasks", "choices", "shots", "--json", "--quiet"]
    assert _status_of([*words, "--out", str(tmp_path / "out"), "--n-bootstrap", "200"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["name"] for one in found["entrants"]] == ["base", "cluster-0", "cluster-1"]
    assert found["macro_tasks"] == ["choices", "shots"] and found["macro"]["base"]["n"] == 16


def test_the_command_shows_tables(folders, capsys):
    assert _status_of(["evaluate", "bundled", "--adapters", folders[0], "--tasks", "choices", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "chance" in shown and "Compared on the same items" in shown and "not kept" in shown


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["bundled", "--adapters", "--tasks", "choices"], "'--adapters' is given without a value"),
        (["run.yaml", "--tasks", "choices"], "--tasks needs a base model"),
        (["run.yaml", "--no-base"], "--no-base needs a base model"),
        (["bundled", "--tasks", "choices", "--set", "a.b=1"], "--set needs a run's YAML file"),
        (["bundled", "--tasks", "choices", "--dtype", "float8"], "float8"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_words_are_refused(words, text, capsys):
    assert _status_of(["evaluate", *words]) == 2
    assert text in capsys.readouterr().err


def _status_of(words):
    try:
        return _status(words)
    except SystemExit as stop:
        return stop.code or 0


def test_a_runs_file_is_told_from_a_model(tmp_path):
    (tmp_path / "config").write_text("name: run")
    (tmp_path / "model.yaml-folder").mkdir()
    assert is_run_file("run.yaml") and is_run_file(str(tmp_path / "config"))
    assert not is_run_file("bundled") and not is_run_file("org/model") and not is_run_file(str(tmp_path))


def test_options_take_several_words():
    names = ["--adapters", "--tasks"]
    words = ["m", "--adapters", "A", "B", "--limit", "3", "--tasks", "t", "--adapters", "C", "--json"]
    expected = ["m", "--adapters", "A", "--adapters", "B", "--limit", "3", "--tasks", "t", "--adapters", "C", "--json"]
    assert spread(words, names) == expected


def test_folders_of_adapters_expand_in_natural_order(make_lora, tmp_path):
    for name in ("lib/cluster-10", "lib/cluster-2", "run/merge/svd", "lib/.hidden"):
        make_lora(tmp_path / name, seed=0)
    found = expand_entrants([str(tmp_path / "lib"), str(tmp_path / "run"), f"mine={tmp_path / 'lib' / '.hidden'}"])
    assert [one.name for one in found] == ["base", "cluster-2", "cluster-10", "svd", "mine"]


def test_equal_names_are_told_apart_by_their_folders(make_lora, tmp_path):
    for name in ("one/svd", "two/svd", "two/base"):
        make_lora(tmp_path / name, seed=0)
    found = expand_entrants([str(tmp_path / "one"), str(tmp_path / "two")])
    assert [one.name for one in found] == ["base", "one/svd", "two/base", "two/svd"]


def test_wrong_adapters_are_refused(make_lora, tmp_path):
    folder = make_lora(tmp_path / "a", seed=0)
    (tmp_path / "bare").mkdir()
    with pytest.raises(AdapterError, match="holds no adapter"):
        expand_entrants([str(tmp_path / "bare")])
    with pytest.raises(ConfigError, match="named twice"):
        expand_entrants([folder, str(tmp_path)])
    with pytest.raises(ConfigError, match="cannot have this name"):
        expand_entrants([f"base={folder}"])
    with pytest.raises(ConfigError, match="two adapters have one name"):
        expand_entrants([f"x={folder}", f"x={make_lora(tmp_path / 'b', seed=1)}"])
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        expand_entrants([], with_base=False)


def test_pairs_are_all_where_few_and_else_with_base_and_the_first():
    few = [Entrant("base"), Entrant("a"), Entrant("b")]
    assert chosen_pairs(few) == (("a", "base"), ("b", "base"), ("b", "a"))
    many = [Entrant("base"), *(Entrant(name) for name in "abcd")]
    found = chosen_pairs(many)
    assert found == (*((name, "base") for name in "abcd"), *((name, "a") for name in "bcd"))
    assert chosen_pairs(many, ["d:c", "d:c"]) == (("d", "c"),)
    assert chosen_pairs([Entrant("x:y"), Entrant("z")], ["x:y:z"]) == (("x:y", "z"),)


def test_paths_of_items_stay_in_the_folder(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "choices", lambda **_: choice_task("../../evil name", n=2))
    out = tmp_path / "a" / "b" / "out"
    evaluate_many(request(folders[:1], out, tasks=("choices",)))
    assert [path.name for path in (out / "items").iterdir()] == ["_.._evil_name.jsonl"]
    assert Path(tmp_path / "a" / "b").exists()
