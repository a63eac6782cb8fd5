"""lm-eval as a back end: the same prompts, answers and scores as lm-eval alone, and what is refused."""

import numpy as np
import pytest
import torch
import yaml
from lm_eval_cases import CHOICE, GENERATION, TASK_FILES, made_adapter, own_answers, shared_task_files, task_file

from tclora.adapters import read_adapter
from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, DataError, MissingExtraError, NumericalError, UnknownNameError
from tclora.evaluation.lm_eval_backend import LmEvalModel, load_lm_eval_tasks
from tclora.evaluation.tasks.task import Generation, Likelihoods, Task
from tclora.models import attached, load_base

pytest.importorskip("lm_eval")

# Two passes of one float32 model with different padding differ by rounding, some 1e-6 of sums near 100 nats.
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def base():
    return load_base(BaseModelConfig(path="bundled"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return made_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def folder(tmp_path):
    return task_file(tmp_path / "tasks", "quiz", **CHOICE)


def one_task(folder, **fields):
    task_file(folder, "odd", **(CHOICE | fields))
    (task,) = load_lm_eval_tasks(["odd"], include_path=[folder])
    return task


def assert_same_as_alone(samples, task, answers):
    """Every document: lm-eval's own log-likelihoods or text, and its own value of each metric."""
    items = task.items()
    by_filter = {}
    for sample in samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    assert by_filter
    for name, rows in by_filter.items():
        assert [row["doc_id"] for row in rows] == [int(item.id) for item in items]
        for item, answer, row in zip(items, answers, rows, strict=True):
            assert_same_answer(answer, [given[0] for given in row["resps"]])
            for metric in row["metrics"]:
                key = metric if len(by_filter) == 1 else f"{metric},{name}"
                assert task.score(item, answer)[key] == float(row[metric])


def assert_same_answer(answer, responses):
    if isinstance(answer, str):
        assert [answer] == responses
        return
    np.testing.assert_allclose(answer.sums, [likelihood for likelihood, _ in responses], atol=ROUNDING, rtol=0)
    assert list(answer.greedy) == [greedy for _, greedy in responses]


def test_choices_are_those_of_lm_eval_with_the_adapter_loaded_by_peft(base, adapter, folder):
    (task,) = load_lm_eval_tasks(["quiz"], include_path=[folder])
    assert isinstance(task, Task)
    with attached(base, read_adapter(adapter)):
        answers = LmEvalModel(base, batch_size=3).answers(task, task.items())
    assert_same_as_alone(own_answers(folder, ["quiz"], peft=str(adapter))["quiz"], task, answers)


def test_the_comparison_sees_another_adapter(base, adapter, folder):
    (task,) = load_lm_eval_tasks(["quiz"], include_path=[folder])
    answers = LmEvalModel(base, batch_size=3).answers(task, task.items())
    with pytest.raises(AssertionError):
        assert_same_as_alone(own_answers(folder, ["quiz"], peft=str(adapter))["quiz"], task, answers)


def test_generated_answers_and_filters_are_those_of_lm_eval(base, tmp_path):
    folder = task_file(tmp_path, "written", **GENERATION)
    (task,) = load_lm_eval_tasks(["written"], include_path=[folder])
    assert task.metrics == ("exact_match,first-word", "exact_match,whole")
    asked = task.items()[0].ask
    assert isinstance(asked, Generation)
    assert (asked.max_new_tokens, asked.stop, asked.temperature) == (8, ("\n",), 0.0)
    answers = LmEvalModel(base, batch_size=4).answers(task, task.items())
    assert_same_as_alone(own_answers(folder, ["written"])["written"], task, answers)


def test_a_right_answer_scores(tmp_path):
    folder = task_file(tmp_path, "written", **GENERATION)
    (task,) = load_lm_eval_tasks(["written"], include_path=[folder])
    item = task.items()[0]
    assert task.score(item, "a colour")["exact_match,whole"] == 1.0
    assert task.score(item, "a colour")["exact_match,first-word"] == 0.0
    quiz = one_task(tmp_path)
    chosen = Likelihoods((-1.0, -2.0, -3.0), (1, 1, 1), (True, False, False))
    assert (quiz.score(quiz.items()[0], chosen), quiz.items()[0].gold) == ({"acc": 1.0}, 0)


def test_few_shot_prompts_are_made_once_and_are_those_of_lm_eval(tmp_path):
    folder = task_file(tmp_path, "shots", **CHOICE, fewshot_split="test")
    (task,) = load_lm_eval_tasks(["shots"], include_path=[folder], n_shots=2, limit=5)
    alone = own_answers(folder, ["shots"], num_fewshot=2, limit=5)["shots"]
    prompts = [[(part.prompt.text, part.text) for part in item.ask] for item in task.items()]
    assert prompts == [[tuple(pair) for pair in sample["arguments"]] for sample in alone]
    assert prompts[0][0][0].count("Answer:") == 3
    assert task.facts["n_shots"] == 2


def test_the_mean_of_the_scores_is_the_figure_of_lm_eval(base, folder):
    (task,) = load_lm_eval_tasks(["quiz"], include_path=[folder])
    answers = LmEvalModel(base, batch_size=8).answers(task, task.items())
    scores = [task.score(item, answer)["acc"] for item, answer in zip(task.items(), answers, strict=True)]
    figure = own_answers(folder, ["quiz"])["results"]["quiz"]["acc,none"]
    assert np.mean(scores) == pytest.approx(figure, abs=1e-12)  # one sum in another order
    # Four documents of three choices, four of four.
    assert task.chance == {"acc": pytest.approx((1 / 3 + 1 / 4) / 2)}


def generator_states():
    # Python's own is left out: beartype draws from it, to choose which item of a list it checks.
    return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_neither_base_nor_global_generators_are_changed(base, tmp_path):
    sampled = GENERATION | {"generation_kwargs": {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1}}
    folder = task_file(tmp_path, "drawn", **sampled)
    before, padding = generator_states(), (base.tokenizer.pad_token, base.tokenizer.padding_side)
    (task,) = load_lm_eval_tasks(["drawn"], include_path=[folder])
    model = LmEvalModel(base, batch_size=4)
    first, second = (model.answers(task, task.items(), seed=seed) for seed in (0, 0))
    assert first == second
    assert first != model.answers(task, task.items(), seed=1)
    assert before == generator_states()
    assert padding == (base.tokenizer.pad_token, base.tokenizer.padding_side)


def test_progress_counts_items(base, folder):
    (task,) = load_lm_eval_tasks(["quiz"], include_path=[folder])
    heard = []
    LmEvalModel(base, batch_size=8).answers(task, task.items()[:3], on_progress=lambda *told: heard.append(told))
    assert heard[-1] == (3, 3)


def test_a_task_file_is_a_name_too(folder):
    (task,) = load_lm_eval_tasks([str(folder / "quiz.yaml")], include_path=[folder])
    assert task.name == "quiz"


def test_patterns_name_tasks(folder):
    task_file(folder, "quiz_two", **CHOICE)
    assert [task.name for task in load_lm_eval_tasks(["quiz*"], include_path=[folder])] == ["quiz", "quiz_two"]


@pytest.mark.parametrize("name", ["arc_easy", "piqa", "winogrande"])
def test_the_task_files_are_lm_evals_own_but_for_the_data(name):
    from pathlib import Path

    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    places = {"arc_easy": "arc/arc_easy.yaml", "winogrande": "winogrande/default.yaml"}
    own = load_yaml(Path(lm_eval.tasks.__file__).parent / places.get(name, f"{name}/{name}.yaml"))
    ours = load_yaml(TASK_FILES / f"{name}.yaml")
    fields = ["doc_to_text", "doc_to_target", "doc_to_choice", "metric_list", "output_type", "metadata"]
    # Functions are loaded anew from each file, so they are compared by name.
    assert {key: getattr(ours[key], "__qualname__", ours[key]) for key in fields} == {
        key: getattr(own[key], "__qualname__", own[key]) for key in fields
    }


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"unsafe_code": True}, ConfigError, "without a sandbox"),
        ({"repeats": 4}, ConfigError, "several answers to one prompt"),
        ({"metric_list": [{"metric": "mcc"}]}, ConfigError, "no figure of single documents"),
        ({"doc_to_text": "{{no_such_filter | nonsense}}"}, DataError, "TemplateAssertionError.*nonsense"),
        ({"test_split": "absent"}, DataError, "KeyError.*absent"),
        ({"dataset_kwargs": {"data_files": {"test": "/no/such/rows.jsonl"}}}, DataError, "--include-path"),
    ],
)
def test_what_cannot_be_evaluated_item_by_item_is_refused(tmp_path, fields, kind, message):
    with pytest.raises(kind, match=f"(?s){message}"):
        one_task(tmp_path, **fields)


def test_metrics_of_the_whole_set_are_named_as_left_out(tmp_path):
    task = one_task(tmp_path, metric_list=[{"metric": "acc"}, {"metric": "mcc"}])
    assert task.metrics == ("acc",)
    assert task.facts["metrics_of_the_whole_set_left_out"] == ["mcc"]


def test_data_on_the_hub_needs_to_be_online(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"(?s)odd.*go online, or give a task file over local documents"):
        one_task(tmp_path, dataset_path="allenai/ai2_arc", dataset_kwargs={"cache_dir": str(tmp_path)})


def test_shots_are_refused_where_the_task_fixes_none(tmp_path):
    folder = task_file(tmp_path, "none", **CHOICE, num_fewshot=0)
    with pytest.raises(ConfigError, match=r"takes no few-shot examples"):
        load_lm_eval_tasks(["none"], include_path=[folder], n_shots=3)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "no task is named"),
        (["quiz"], {"include_path": ["/no/such/folder"]}, "does not exist"),
        (["quiz"], {"limit": 0}, "out of range"),
        (["quiz"], {"n_shots": -1}, "out of range"),
    ],
)
def test_a_wrong_request_is_refused(names, options, message):
    from pathlib import Path

    options = options | {"include_path": [Path(folder) for folder in options.get("include_path", [])]}
    with pytest.raises(ConfigError, match=message):
        load_lm_eval_tasks(names, **options)


def test_an_unknown_name_gets_near_ones(folder, monkeypatch):
    import lm_eval.tasks

    class OnlyTheFolders(lm_eval.tasks.TaskManager):
        """Without lm-eval's own files, whose index takes seconds."""

        def __init__(self, include_path=None, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", OnlyTheFolders)
    with pytest.raises(UnknownNameError, match=r"(?s)quizz.*one of quiz"):
        load_lm_eval_tasks(["quizz"], include_path=[folder])


@pytest.mark.slow
def test_every_name_of_lm_eval_is_known_and_needs_the_hub(monkeypatch, tmp_path):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"(?s)copa.*go online"):
        load_lm_eval_tasks(["copa"])


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(MissingExtraError, match=r"tclora\[eval\]"):
        load_lm_eval_tasks(["quiz"])


def test_a_likelihood_that_is_no_number_is_refused(base, folder):
    (task,) = load_lm_eval_tasks(["quiz"], include_path=[folder])
    norm = base.model.get_submodule("model.norm")
    spoiled = norm.register_forward_hook(lambda _, inputs, output: output * float("nan"))
    try:
        with pytest.raises(NumericalError, match="quiz, document 0"):
            LmEvalModel(base, batch_size=4).answers(task, task.items()[:1])
    finally:
        spoiled.remove()


@pytest.mark.needs_shared
def test_the_shared_benchmarks_make_lm_evals_prompts(shared, tmp_path):
    folder = shared_task_files(tmp_path, shared / "data")
    tasks = load_lm_eval_tasks(["arc_easy", "winogrande"], include_path=[folder], limit=3)
    assert [len(task.items()) for task in tasks] == [3, 3]
    assert tasks[0].items()[0].ask[0].prompt.text.startswith("Question: Which statement best explains")
    assert tasks[1].items()[0].ask[0].text == " always got the easier cases."
    assert yaml.safe_load(yaml.safe_dump(dict(tasks[0].facts)))["task_version"] == "1.0"
