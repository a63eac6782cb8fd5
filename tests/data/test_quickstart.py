"""The bundled tasks: every answer recomputed by other means, no leak between parts, the same rows in every process."""

import os
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime

import pytest

from tclora.data.quickstart import FAMILIES, HELD_OUT_FAMILIES, QuickstartTasks, quickstart_examples
from tclora.data.quickstart.family import draw_examples
from tclora.data.quickstart.text import TEXT_FAMILIES
from tclora.errors import ConfigError

PRAISE = {"great", "good", "lovely", "warm", "perfect", "excellent", "fresh", "happy"}
BLAME = {"bad", "cold", "awful", "dirty", "slow", "terrible", "poor", "rude"}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _sorted_by_hand(text: str, pick) -> str:
    left, out = _numbers(text), []
    while left:
        out.append(pick(left))
        left.remove(out[-1])
    return ", ".join(f"{number}" for number in out)


def _mood(text: str) -> str:
    words = set(re.findall(r"[a-z]+", text))
    assert bool(words & PRAISE) != bool(words & BLAME), "a review has one mood"
    return "positive" if words & PRAISE else "negative"


def _sum(text: str) -> str:
    had, got = _numbers(text)
    counted = [*range(had), *range(got)]
    return f"{had} + {got} = {len(counted)}"


def _field(text: str) -> str:
    record, field = text.split("\n")
    found = re.search(rf'"{field}": "([^"]*)"', record)
    assert found, f"{field} is a key of the record"
    return found[1]


def _flip(text: str, low: str, high: str) -> str:
    shift = ord(high) - ord(low)
    return "".join(chr(ord(c) + shift) if low <= c <= chr(ord(low) + 25) else c for c in text)


def _csv(text: str, pattern: str) -> str:
    return re.sub(r"^(.*),(.*),(.*)$", pattern, text)


def _date(text: str, layout: str) -> str:
    return datetime.strptime(text, "%d %B %Y").strftime(layout)


# A second implementation of every family, from the prompt alone.
ORACLES = {
    "first_word": lambda text: re.match(r"\w+", text)[0],
    "last_word": lambda text: re.search(r"\w+$", text)[0],
    "upper_case": lambda text: _flip(text, "a", "A"),
    "lower_case": lambda text: _flip(text, "A", "a"),
    "initials": lambda text: re.sub(r"[^A-Z]", "", text),
    "review_mood": _mood,
    "ascending": lambda text: _sorted_by_hand(text, min),
    "descending": lambda text: _sorted_by_hand(text, max),
    "sum_story": _sum,
    "iso_date": lambda text: _date(text, "%Y-%m-%d"),
    "dotted_date": lambda text: _date(text, "%d.%m.%Y"),
    "json_field": _field,
    "csv_sentence": lambda text: _csv(text, r"\1 is \2 years old and lives in \3."),
    "csv_pairs": lambda text: _csv(text, r"name=\1; age=\2; city=\3"),
    "first_word_upper": lambda text: _flip(re.match(r"\w+", text)[0], "a", "A"),
    "record_date": lambda text: _date(_field(text), "%Y-%m-%d"),
}
RIVALS = (
    ("first_word", "last_word"),
    ("upper_case", "lower_case"),
    ("ascending", "descending"),
    ("iso_date", "dotted_date"),
    ("csv_sentence", "csv_pairs"),
)


@pytest.fixture(scope="module")
def tasks() -> QuickstartTasks:
    return quickstart_examples(seed=3, n_train=200, n_dev=30, n_held_out=40)


def _rows(tasks: QuickstartTasks):
    return (*tasks.train, *tasks.dev, *tasks.held_out)


def _of(examples, family: str):
    return [example for example in examples if example.task == f"quickstart/{family}"]


@pytest.mark.parametrize("family", FAMILIES + HELD_OUT_FAMILIES)
def test_answers_agree_with_a_second_implementation(tasks, family):
    rows = _of(_rows(tasks), family)
    wrong = [row for row in rows if row.output != ORACLES[family](row.input)]
    assert rows and not wrong


def test_there_are_fourteen_families_and_two_held_out():
    assert (len(set(FAMILIES)), len(set(HELD_OUT_FAMILIES))) == (14, 2)


def test_held_out_families_are_not_trained_on():
    assert not set(FAMILIES) & set(HELD_OUT_FAMILIES)


def test_every_family_has_the_counts_asked_for(tasks):
    train, dev, held_out = (Counter(row.task for row in part) for part in (tasks.train, tasks.dev, tasks.held_out))
    names = {f"quickstart/{name}" for name in FAMILIES}
    assert train == dict.fromkeys(names, 200) and dev == dict.fromkeys(names, 30)
    assert held_out == {f"quickstart/{name}": 40 for name in HELD_OUT_FAMILIES}


@pytest.mark.parametrize("family", FAMILIES + HELD_OUT_FAMILIES)
def test_inputs_within_a_family_are_distinct(tasks, family):
    inputs = [row.input for row in _of(_rows(tasks), family)]
    assert len(inputs) == len(set(inputs))


@pytest.mark.parametrize("seed", range(5))
def test_no_input_is_in_two_parts(seed):
    # By input alone, over all families: rivals share their inputs, so a leak across them would count too.
    drawn = quickstart_examples(seed=seed, n_train=120, n_dev=20, n_held_out=50)
    train, dev, held_out = ({row.input for row in part} for part in (drawn.train, drawn.dev, drawn.held_out))
    assert not (train & dev or train & held_out or dev & held_out)


@pytest.mark.parametrize(("one", "other"), RIVALS)
def test_rivals_get_the_same_inputs_and_want_other_answers(tasks, one, other):
    first, second = _of(tasks.train, one), _of(tasks.train, other)
    assert [row.input for row in first] == [row.input for row in second]
    assert sum(a.output == b.output for a, b in zip(first, second, strict=True)) < len(first) / 10


@pytest.mark.parametrize("family", FAMILIES + HELD_OUT_FAMILIES)
def test_a_family_has_three_to_five_wordings_of_its_own(tasks, family):
    own = {row.instruction for row in _of(_rows(tasks), family)}
    others = {row.instruction for row in _rows(tasks) if row.task != f"quickstart/{family}"}
    assert 3 <= len(own) <= 5 and not own & others


def test_rows_are_short_ascii_without_stray_blanks(tasks):
    for row in _rows(tasks):
        for text in (row.instruction, row.input, row.output):
            assert text and text.isascii() and text == text.strip() and len(text) < 90


def test_prompt_and_answer_fit_in_72_tokens_of_the_small_base(tasks, shared):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(shared / "models" / "seed-lm" / "tokenizer.json"))
    texts = [f"### Instruction:\n{r.instruction}\n{r.input}\n\n### Response:\n{r.output}" for r in _rows(tasks)]
    # 72 leaves room over the longest row seen (63); bos and eos make two more.
    assert max(len(row.ids) for row in tokenizer.encode_batch(texts, add_special_tokens=False)) + 2 <= 72


def test_dev_rows_do_not_depend_on_the_number_of_training_rows():
    few, many = (quickstart_examples(n_train=n, n_dev=8, n_held_out=2) for n in (5, 50))
    assert few.dev == many.dev and few.held_out == many.held_out


def test_more_training_rows_extend_fewer():
    few, many = (quickstart_examples(n_train=n, n_dev=8, n_held_out=2).train for n in (5, 50))
    assert all(_of(many, name)[:5] == _of(few, name) for name in FAMILIES)


def test_seeds_give_other_rows():
    one, two = (quickstart_examples(seed=seed, n_train=20, n_dev=0, n_held_out=0) for seed in (0, 1))
    assert one != two


PRINT_DIGEST = """
import hashlib, json, random
from dataclasses import asdict
from tclora.data.quickstart import quickstart_examples
before = random.getstate()
rows = asdict(quickstart_examples(seed=7, n_train=20, n_dev=5, n_held_out=5))
print(hashlib.sha256(json.dumps(rows).encode()).hexdigest(), random.getstate() == before)
"""


@pytest.fixture(scope="module")
def fresh_processes() -> list[list[str]]:
    """What two processes with other hash seeds print: the digest of the rows; is the global generator untouched?

    Outside the test process, because the run-time type checks of the test run draw from the global generator too.
    """
    command = [sys.executable, "-c", PRINT_DIGEST]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in "12"
    ]
    return [run.stdout.split() for run in runs]


def test_rows_are_the_same_in_every_process_and_hash_seed(fresh_processes):
    assert fresh_processes[0][0] == fresh_processes[1][0]


def test_the_global_generator_is_left_alone(fresh_processes):
    assert [untouched for _, untouched in fresh_processes] == ["True", "True"]


@pytest.mark.parametrize("name", ["n_train", "n_dev", "n_held_out"])
def test_a_negative_count_is_refused(name):
    counts = {"n_train": 1, "n_dev": 1, "n_held_out": 1, name: -1}
    with pytest.raises(ConfigError, match=rf"`{name}` is negative\n  found +-1"):
        quickstart_examples(**counts)


def test_the_smallest_family_can_be_drawn_whole():
    (upper_case,) = (family for family in TEXT_FAMILIES if family.name == "upper_case")
    # 8 * 7 ordered pairs of words, 3 cases each.
    assert len({row.input for row in draw_examples(upper_case, 8 * 7 * 9, seed=0)}) == 504


def test_more_rows_than_a_family_has_are_refused_by_name():
    (upper_case,) = (family for family in TEXT_FAMILIES if family.name == "upper_case")
    with pytest.raises(ConfigError, match=r"family 'upper_case' has too few distinct inputs[\s\S]*at most about 504"):
        draw_examples(upper_case, 505, seed=0)


def test_no_rows_is_no_error():
    assert quickstart_examples(n_train=0, n_dev=0, n_held_out=0) == QuickstartTasks((), (), ())
