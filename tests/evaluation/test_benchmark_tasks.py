"""The benchmark tasks on the real files: golden prompts, lm-eval's own templates as oracle, chance, shots, limits."""

import gzip
import hashlib
import itertools
import json
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from tclora.errors import ConfigError, DataError, UnknownNameError
from tclora.evaluation.tasks import EVAL_TASKS, Generation, Task, load_task
from tclora.evaluation.tasks.scorers import ChoiceGold

# The table of the shared data's README: rows, and the chance in percent where choices are given.
README = {
    "arc_challenge": (1172, 25.0),
    "arc_easy": (2376, 25.0),
    "bbh": (5507, 31.0),
    "bbh_freeform": (1000, None),
    "boolq": (3270, 50.0),
    "gsm8k": (1319, None),
    "gsm8k_pal": (1319, None),
    "gsm_hard": (1319, None),
    "hellaswag": (10042, 25.0),
    "humaneval": (164, None),
    "mbpp": (500, None),
    "openbookqa": (500, 25.0),
    "piqa": (1838, 50.0),
    "svamp": (1000, None),
    "svamp_pal": (1000, None),
    "winogrande": (1267, 50.0),
}


N_HEAD = 150


@pytest.fixture(scope="session")
def heads(shared, tmp_path_factory) -> Path:
    """The first rows of each file: reading all of them under beartype takes a minute."""
    folder = tmp_path_factory.mktemp("heads")
    for file in [
        "train/math_gsm8k",
        *(f"eval/{path.name.split('.')[0]}" for path in (shared / "data/eval").glob("*.gz")),
    ]:
        (folder / file).parent.mkdir(exist_ok=True)
        with gzip.open(shared / "data" / f"{file}.jsonl.gz", "rt") as lines:
            (folder / f"{file}.jsonl").write_text("".join(itertools.islice(lines, N_HEAD)))
    return folder


@pytest.fixture(scope="session")
def loaded(heads):
    """Each task of the registry on the first rows of its file, read once."""
    kept: dict[tuple, Task] = {}

    def load(name: str, **options):
        key = (name, *sorted(options.items()))
        if key not in kept:
            kept[key] = load_task(name, data=heads, **options)
        return kept[key]

    return load


def rows_of(folder: Path, file: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "eval" / f"{file}.jsonl").read_text().splitlines()]


def prompt_of(item) -> str:
    return item.ask.prompt.text if isinstance(item.ask, Generation) else item.ask[0].prompt.text


def test_the_table_names_every_task():
    assert set(README) == set(EVAL_TASKS)


def whole_task(shared: Path, name: str) -> Task:
    return load_task(name, data=shared / "data")


# These files are large, and every row is checked by beartype.
LARGE = ("hellaswag", "bbh", "boolq", "arc_easy", "piqa")


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in README]
)
def test_size_chance_and_ids_are_those_of_the_tables(shared, name):
    task, facts = whole_task(shared, name), EVAL_TASKS.entry(name).facts
    n, chance = README[name]
    assert len(task.items()) == facts["n"] == n
    assert len({item.id for item in task.items()}) == n
    if chance is None:
        assert task.chance == {} and "chance" not in facts
    else:
        # Both tables give one decimal of a percentage.
        assert round(100 * task.chance[task.metrics[0]], 1) == chance == round(100 * facts["chance"], 1)


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", README)
def test_metrics_are_those_of_the_table_and_facts_are_json(loaded, name):
    task, facts = loaded(name), EVAL_TASKS.entry(name).facts
    assert isinstance(task, Task)
    assert task.metrics == facts["metrics"]
    assert set(task.lower_is_better) < set(task.metrics)
    assert task.runs_code is facts.get("runs_code", False)
    assert len(json.loads(json.dumps(dict(task.facts)))["file_sha256"]) == 64


GOLDEN = {
    "arc_easy": (
        "Question: Which statement best explains why photosynthesis is the foundation of most food webs?\nAnswer:",
        " Sunlight is the source of energy for nearly all ecosystems.",
    ),
    "piqa": (
        "Question: How do I ready a guinea pig cage for it's new occupants?\nAnswer:",
        " Provide the guinea pig with a cage full of a few inches of bedding made of ripped paper strips, you will "
        "also need to supply it with a water bottle and a food dish.",
    ),
    "hellaswag": (
        "Roof shingle removal: A man is sitting on a roof. He",
        " is using wrap to wrap a pair of skis.",
    ),
    "winogrande": ("Sarah was a much better surgeon than Maria so Sarah", " always got the easier cases."),
    "openbookqa": (
        "A person wants to start saving money so that they can afford a nice vacation at the end of the year. After "
        "looking over their budget and expenses, they decide the best way to save money is to",
        " make more phone calls",
    ),
    "bbh": ("Q: not ( True ) and ( True ) is\nA:", " False"),
}


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", GOLDEN)
def test_the_first_item_as_it_is_asked(loaded, name):
    first = loaded(name).items()[0].ask[0]
    assert (first.prompt.text, first.text) == GOLDEN[name]
    assert first.prompt.plain


@pytest.mark.needs_shared
def test_a_passage_goes_before_its_question(loaded):
    first, second = loaded("boolq").items()[0].ask
    assert first.prompt == second.prompt
    assert first.prompt.text.startswith("Ethanol fuel -- All biomass goes through")
    assert first.prompt.text.endswith("\nQuestion: does ethanol take more energy make that produces?\nAnswer:")
    assert (first.text, second.text) == (" no", " yes")


def lm_eval_file(name: str) -> str:
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs lm-eval, whose task files are the oracle")
    return (Path(spec.submodule_search_locations[0]) / "tasks" / name).read_text()


def rendered(template: str, doc: dict) -> str:
    jinja2 = pytest.importorskip("jinja2")
    return jinja2.Environment(keep_trailing_newline=True).from_string(template).render(**doc)


# Our rows as the documents that lm-eval's own files expect.
DOCS = {
    "arc_easy": ("arc/arc_easy.yaml", lambda row: {"question": row["question"]}),
    "piqa": ("piqa/piqa.yaml", lambda row: {"goal": row["question"]}),
    "boolq": (
        "super_glue/boolq/default.yaml",
        lambda row: {"passage": row["context"], "question": row["question"].removesuffix("?")},
    ),
    "gsm8k": ("gsm8k/gsm8k.yaml", lambda row: {"question": row["question"]}),
    "mbpp": ("mbpp/mbpp.yaml", lambda row: row),
    "humaneval": ("humaneval/humaneval.yaml", lambda row: row),
}


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", DOCS)
def test_prompts_are_those_of_lm_evals_templates(loaded, heads, name):
    file, as_doc = DOCS[name]
    template = re.search(r'^doc_to_text: (".*")$', lm_eval_file(file), re.MULTILINE)
    assert template is not None
    items = loaded(name, shots=0).items()
    for item, row in list(zip(items, rows_of(heads, name), strict=True))[::3]:
        assert prompt_of(item) == rendered(json.loads(template[1]), as_doc(row))


@pytest.mark.needs_shared
def test_winogrande_is_scored_as_lm_eval_scores_it(loaded, heads):
    theirs: dict = {}
    exec(lm_eval_file("winogrande/preprocess_winogrande.py"), theirs)
    for item, row in zip(loaded("winogrande").items(), rows_of(heads, "winogrande"), strict=True):
        option1, option2 = row["choices"]
        doc = {"sentence": row["question"], "option1": option1, "option2": option2, "answer": str(row["answer"] + 1)}
        assert [asked.prompt.text for asked in item.ask] == theirs["doc_to_choice"](doc)
        assert {asked.text for asked in item.ask} == {" " + theirs["doc_to_target"](doc)}
        assert item.gold.answer == theirs["doc_to_text"](doc)


@pytest.mark.slow
@pytest.mark.needs_shared
def test_hellaswag_is_cleaned_as_lm_eval_cleans_it(shared):
    source = lm_eval_file("hellaswag/utils.py")
    theirs: dict = {"re": re}
    exec(source[source.index("def preprocess") : source.index("def process_docs")], theirs)
    with gzip.open(shared / "data/eval/hellaswag.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    n_open = 0
    for item, row in zip(whole_task(shared, "hellaswag").items(), rows, strict=True):
        begin, space, fragment = row["question"].rpartition(". ")
        if re.fullmatch(r"[a-z][^.!?]*", fragment):
            n_open += 1
            assert prompt_of(item) == theirs["preprocess"](begin + space + fragment.capitalize())
        assert prompt_of(item).lower() == theirs["preprocess"](row["question"]).lower()
    # ActivityNet gives 3,243 of the 10,042 contexts; some end their last whole sentence with another mark.
    assert 3000 < n_open < 3243


@pytest.mark.needs_shared
def test_the_stops_are_the_usual_ones(loaded):
    item = loaded("humaneval").items()[0]
    until = re.search(r"until:\n((?:    - .*\n)+)", lm_eval_file("humaneval/humaneval.yaml"))
    assert until is not None
    assert list(item.ask.stop) == [json.loads(line.split("- ")[1]) for line in until[1].strip().split("\n")]
    assert (item.ask.temperature, item.ask.top_p, item.ask.max_new_tokens) == (0.05, 0.95, 300)
    greedy = loaded("gsm8k").items()[0].ask
    assert (greedy.temperature, greedy.stop[0]) == (0.0, "Question:")


@pytest.mark.needs_shared
def test_templates_are_instructions_and_winogrande_stays_plain(loaded):
    boolq = loaded("boolq", plain=False).items()[0].ask
    assert boolq[0].prompt.text.endswith("\ndoes ethanol take more energy make that produces?")
    assert not boolq[0].prompt.plain and boolq[1].text == "yes"
    assert loaded("boolq", plain=False).facts["prompt_format"] == "template"
    assert loaded("winogrande", plain=False).items() == loaded("winogrande").items()
    assert loaded("winogrande", plain=False).facts["prompt_format"] == "plain"
    gsm8k = loaded("gsm8k", plain=False).items()[0].ask.prompt.text
    assert gsm8k.startswith("Solve the following grade school math problem.") and gsm8k.count("\n") == 1


@pytest.mark.needs_shared
def test_bbh_has_a_group_for_each_subtask(loaded, shared):
    assert Counter(item.group for item in whole_task(shared, "bbh_freeform").items()) == dict.fromkeys(
        ("dyck_languages", "multistep_arithmetic_two", "object_counting", "word_sorting"), 250
    )
    assert {item.group for item in loaded("bbh").items()} == {"boolean_expressions"}
    assert {item.group for item in loaded("arc_easy").items()} == {""}


@pytest.mark.needs_shared
def test_a_larger_limit_only_adds_items(loaded, shared):
    few, more, other = (
        load_task("bbh_freeform", data=shared / "data", limit=limit, seed=seed)
        for limit, seed in ((50, 0), (200, 0), (50, 1))
    )
    kept = [item.id for item in few.items()]
    assert len(kept) == 50 and [item.id for item in more.items() if item.id in kept] == kept
    # The file lists one subtask after the other, so its first 200 rows would hold one of them.
    assert len({item.group for item in more.items()}) == 4
    assert [item.id for item in other.items()] != kept
    assert few.facts["limit"] == 50 and few.facts["seed"] == 0
    assert len(loaded("humaneval", limit=1000).items()) == N_HEAD


@pytest.mark.needs_shared
def test_shots_are_drawn_by_the_seed_and_are_no_test_items(loaded, heads):
    task = loaded("gsm8k")
    shown = prompt_of(task.items()[0]).split("\n\nQuestion: ")
    assert len(shown) == 6 and task.facts["shots"] == 5
    assert all(re.search(r"#### -?[\d,]+$", shot) for shot in shown[:5])
    tested = {row["question"] for row in rows_of(heads, "gsm8k")}
    assert not [shot for shot in shown[:5] if shot.removeprefix("Question: ").split("\nAnswer:")[0] in tested]
    prefixes = {prompt_of(item).rpartition("Question: ")[0] for item in task.items()}
    assert len(prefixes) == 1
    assert prompt_of(loaded("gsm8k", seed=1).items()[0]) != prompt_of(task.items()[0])
    assert (task.facts["shots"], task.facts["fewshot_file"]) == (5, "math_gsm8k.jsonl")


@pytest.mark.needs_shared
def test_mbpp_shows_tasks_2_3_and_4(loaded):
    prompt = prompt_of(loaded("mbpp").items()[0])
    shown = prompt.split("[DONE]\n\n")
    assert len(shown) == 4
    asked = ["find the similar elements", "identify non-prime numbers", "find the largest integers"]
    assert [text in shot for text, shot in zip(asked, shown, strict=False)] == [True, True, True]
    assert all(word in prompt for word in ("def similar_elements(", "def is_not_prime(", "def heap_queue_largest("))
    assert prompt.endswith('assert remove_Occ("PHP","P") == "H"\n[BEGIN]\n')


def test_an_unknown_task_is_named_with_near_ones(tmp_path):
    with pytest.raises(UnknownNameError, match=r"there is no task called 'hellaswg'[\s\S]*did you mean hellaswag"):
        load_task("hellaswg", data=tmp_path)


def test_a_folder_without_the_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"lacks a benchmark's file[\s\S]*eval/piqa\.jsonl\.gz"):
        load_task("piqa", data=tmp_path)


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    row = {"id": "1", "question": "Q", "choices": ["a", "b"], "answer": 0}
    for folder in ("one/eval", "two/data/eval"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "two/data/eval/piqa.jsonl").write_text(json.dumps(row | {"question": "two"}) + "\n")
    monkeypatch.delenv("TCLORA_DATA", raising=False)
    monkeypatch.setenv("TCLORA_SHARED", str(tmp_path / "two"))
    assert "two" in prompt_of(load_task("piqa").items()[0])
    monkeypatch.setenv("TCLORA_DATA", str(tmp_path / "one"))
    # The first folder lacks the file, so the next one is taken.
    assert "two" in prompt_of(load_task("piqa").items()[0])
    (tmp_path / "one/eval/piqa.jsonl").write_text(json.dumps(row | {"question": "one"}) + "\n")
    assert "one" in prompt_of(load_task("piqa").items()[0])


def write(folder: Path, name: str, *rows: dict) -> Path:
    (folder / "eval").mkdir(exist_ok=True)
    (folder / "eval" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arc(name: str, question: str, answer: int = 0) -> dict:
    return {"id": name, "question": question, "choices": ["red", "blue"], "answer": answer}


def test_shots_of_a_choice_task_come_from_its_own_file(tmp_path):
    write(tmp_path, "arc_easy", arc("1", "Sky?", 1))
    with pytest.raises(ConfigError, match=r"no examples to be shown[\s\S]*arc_easy_fewshot\.jsonl"):
        load_task("arc_easy", data=tmp_path, shots=1)
    write(tmp_path, "arc_easy_fewshot", arc("a", "Rose?"), arc("b", "Sea?", 1))
    (item,) = load_task("arc_easy", data=tmp_path, shots=2).items()
    assert prompt_of(item) == (
        "Question: Rose?\nAnswer: red\n\nQuestion: Sea?\nAnswer: blue\n\nQuestion: Sky?\nAnswer:"
    )
    with pytest.raises(ConfigError, match=r"too few examples[\s\S]*found     2"):
        load_task("arc_easy", data=tmp_path, shots=3)


def test_a_shot_that_is_a_test_item_is_refused(tmp_path):
    write(tmp_path, "arc_easy", arc("1", "Sky  blue?", 1))
    write(tmp_path, "arc_easy_fewshot", arc("a", "Sky blue?", 1))
    with pytest.raises(DataError, match="a few-shot example is a test item"):
        load_task("arc_easy", data=tmp_path, shots=1)


def test_bbh_shows_examples_of_the_same_subtask(tmp_path):
    write(tmp_path, "bbh_choice", arc("1", "One?") | {"task": "x"}, arc("2", "Two?") | {"task": "y"})
    write(tmp_path, "bbh_choice_fewshot", arc("a", "Ex?") | {"task": "x"}, arc("b", "Why?", 1) | {"task": "y"})
    one, two = load_task("bbh", data=tmp_path, shots=1).items()
    assert prompt_of(one) == "Q: Ex?\nA: red\n\nQ: One?\nA:"
    assert prompt_of(two) == "Q: Why?\nA: blue\n\nQ: Two?\nA:"


@pytest.mark.parametrize("name", ["humaneval", "bbh_freeform"])
def test_tasks_without_examples_say_so(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name} has no examples to be shown"):
        load_task(name, data=tmp_path, shots=1)


@pytest.mark.parametrize(("option", "text"), [({"limit": 0}, "limit of items"), ({"shots": -1}, "shots is negative")])
def test_numbers_out_of_range_are_refused(tmp_path, option, text):
    with pytest.raises(ConfigError, match=text):
        load_task("piqa", data=tmp_path, **option)


def test_a_question_without_a_number_is_refused(tmp_path):
    write(tmp_path, "svamp", {"id": "1", "question": "How many?", "answer": "some"})
    with pytest.raises(DataError, match=r"'answer' is not a number[\s\S]*svamp\.jsonl:1[\s\S]*'some'"):
        load_task("svamp", data=tmp_path, shots=0)


@pytest.mark.needs_shared
def test_gold_of_choices_is_the_files(loaded, heads):
    for item, row in zip(loaded("arc_challenge").items(), rows_of(heads, "arc_challenge"), strict=True):
        assert item.gold == ChoiceGold(tuple(row["choices"]), row["answer"])


@pytest.mark.needs_shared
def test_two_readings_are_equal(shared):
    def digest() -> str:
        items = load_task("gsm_hard", data=shared / "data", limit=50).items()
        return hashlib.sha256(repr(items).encode()).hexdigest()

    assert digest() == digest()
