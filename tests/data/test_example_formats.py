"""Every format, in every file kind that can hold it, becomes the same examples; and examples survive a round trip."""

import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.data import Example, Turn, expand_paths, read_examples, write_examples
from tclora.errors import ConfigError, DataError

ADD = Example("Add.", "1 2", "3", "math/add")
NAME = Example("Name a color.", output="red")
CHAT = Example(
    "And of Italy?",
    output="Rome",
    history=(Turn("system", "Be brief."), Turn("user", "Capital of France?"), Turn("assistant", "Paris")),
)
CHAT_TURNS = [
    ("system", "Be brief."),
    ("user", "Capital of France?"),
    ("assistant", "Paris"),
    ("user", "And of Italy?"),
    ("assistant", "Rome"),
]
ALPACA = [
    {"task": "math/add", "instruction": "Add.", "input": "1 2", "output": "3", "licence": "x"},
    {"instruction": "Name a color.", "output": "red"},
]


def _jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


FORMATS = {
    "alpaca": (ALPACA, [ADD, NAME]),
    "alpaca_null_input": ([{"instruction": "Name a color.", "input": None, "output": "red"}], [NAME]),
    "alpaca_numbers": ([{"instruction": "Add.", "input": "1 2", "output": 3, "task": "math/add"}], [ADD]),
    "messages": ([{"messages": [{"role": role, "content": text} for role, text in CHAT_TURNS]}], [CHAT]),
    "messages_in_parts": (
        [
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Name a"}, {"type": "text", "text": " color."}],
                    },
                    {"role": "assistant", "content": "red"},
                ]
            }
        ],
        [NAME],
    ),
    "sharegpt": (
        [
            {
                "id": "1",
                "conversations": [
                    {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text}
                    for role, text in CHAT_TURNS
                ],
            }
        ],
        [CHAT],
    ),
    "prompt_completion": ([{"prompt": "Name a color.", "completion": "red"}], [NAME]),
    "prompt_completion_turns": (
        [
            {
                "prompt": [{"role": role, "content": text} for role, text in CHAT_TURNS[:-1]],
                "completion": [{"role": "assistant", "content": "Rome"}],
            }
        ],
        [CHAT],
    ),
    "flan": ([{"source": "Name a color.", "target": "red", "task_name": ""}], [NAME]),
    "flan_with_task": (
        [{"source": "1 2", "target": "3", "task_name": "add"}],
        [Example("1 2", output="3", task="add")],
    ),
    "text": ([{"text": "It rains."}], [Example("", output="It rains.")]),
    # A shared-schema row has a column called `source` too: the instruction decides.
    "alpaca_with_source": ([ALPACA[0] | {"source": "somewhere"}], [ADD]),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".ndjson", "_lines.json"])
def test_every_format_is_told_by_its_columns(tmp_path, name, ending):
    rows, expected = FORMATS[name]
    lines = json.dumps(rows, indent=1) if ending == ".json" else "\n".join(json.dumps(row) for row in rows)
    content = lines.encode()
    path = tmp_path / f"data{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    assert read_examples(path) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_a_named_format_gives_what_auto_gives(tmp_path, name):
    rows, expected = FORMATS[name]
    kind = next(
        kind for kind in ("prompt_completion", "messages", "sharegpt", "flan", "text", "alpaca") if kind in name
    )
    assert read_examples([str(_jsonl(tmp_path / "a.jsonl", rows))], format=kind) == expected


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_table_gives_the_same_examples(tmp_path, delimiter):
    path = tmp_path / ("data.csv" if delimiter == "," else "data.tsv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["instruction", "input", "output"])
        writer.writerow(['Say "hi",\ttwice.', "line one\nline two", "hi, hi"])
    assert read_examples(path) == [Example('Say "hi",\ttwice.', "line one\nline two", "hi, hi")]


@pytest.mark.parametrize("name", ["alpaca", "messages", "sharegpt", "flan", "text"])
def test_parquet_gives_the_same_examples(tmp_path, name):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows, expected = FORMATS[name]
    parquet.write_table(pyarrow.Table.from_pylist(rows * 300), tmp_path / "data.parquet", row_group_size=70)
    found = read_examples(tmp_path / "data.parquet")
    assert found == expected * 300


def test_a_field_map_comes_before_detection(tmp_path):
    rows = [{"question": "Add.", "context": "1 2", "answer": 3, "instruction": "not this"}]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    fields = {"instruction": "question", "input": "context", "output": "answer"}
    assert read_examples(path, fields=fields) == [Example("Add.", "1 2", "3")]


def test_a_field_map_may_swap_columns(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", [{"instruction": "the answer", "output": "the question"}])
    swapped = read_examples(path, fields={"instruction": "output", "output": "instruction"})
    assert swapped == [Example("the question", output="the answer")]


def test_a_file_without_mapped_columns_is_read_as_it_is(tmp_path):
    one = _jsonl(tmp_path / "a.jsonl", [{"question": "Name a color.", "answer": "red"}])
    two = _jsonl(tmp_path / "b.jsonl", ALPACA)
    found = read_examples([one, two], fields={"instruction": "question", "output": "answer"})
    assert found == [NAME, ADD, NAME]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"question": "instruction"}, ConfigError, "column tclora does not know: question"),
        ({"instruction": "instruction", "output": "anwser"}, DataError, "no 'anwser'"),
    ],
)
def test_a_wrong_field_map_is_refused(tmp_path, fields, error, message):
    path = _jsonl(tmp_path / "a.jsonl", ALPACA)
    with pytest.raises(error, match=message):
        read_examples(path, fields=fields)


def test_without_an_output_a_prompt_is_an_example(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", [{"instruction": "Name a color."}])
    assert read_examples(path, require_output=False) == [Example("Name a color.")]
    ends_with_user = _jsonl(tmp_path / "b.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}])
    assert read_examples(ends_with_user, require_output=False) == [Example("Hi")]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in ALPACA) + b"\r\n\r\n")
    assert read_examples(path) == [ADD, NAME]


def test_only_a_line_feed_ends_a_line(tmp_path):
    row = {"instruction": "a\u2028b\x85c", "output": "d"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert read_examples(tmp_path / "a.jsonl") == [Example("a\u2028b\x85c", output="d")]


def test_globs_home_and_links_are_followed_in_a_fixed_order(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl"):
        _jsonl(tmp_path / name, [{"instruction": name, "output": "x"}])
    (tmp_path / "d.jsonl").symlink_to(tmp_path / "a.jsonl")
    found = [example.instruction for example in read_examples(["~/[ab].jsonl", "~/c[1].jsonl"])]
    assert found == ["a.jsonl", "b.jsonl", "c[1].jsonl"]
    assert read_examples("~/d.jsonl")[0].instruction == "a.jsonl"
    assert expand_paths(tmp_path / "a.jsonl") == [tmp_path / "a.jsonl"]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
solid = texts.filter(lambda text: text.strip())
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), max_size=3)
prompted = st.tuples(solid, st.just("") | texts, solid, st.just("") | texts, turns)
plain = st.tuples(st.just(""), st.just(""), solid, st.just("") | texts, st.just([]))


@settings(max_examples=60, deadline=None)
@given(st.lists(prompted | plain, min_size=1, max_size=5))
def test_written_examples_are_read_back_equal_with_equal_bytes(columns):
    rows = [Example(*row[:4], history=tuple(Turn(*turn) for turn in row[4])) for row in columns]
    with tempfile.TemporaryDirectory() as name:
        _check_round_trip(Path(name), rows)


def _check_round_trip(folder: Path, rows: list[Example]) -> None:
    write_examples(folder / "a.jsonl", rows)
    found = read_examples(folder / "a.jsonl")
    write_examples(folder / "b.jsonl", found)
    assert found == rows
    assert (folder / "a.jsonl").read_bytes() == (folder / "b.jsonl").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_no_examples_are_a_file_only_where_that_is_allowed(tmp_path):
    write_examples(tmp_path / "a.jsonl", [])
    assert read_examples(tmp_path / "a.jsonl", allow_empty=True) == []
    with pytest.raises(DataError, match="has no rows"):
        read_examples(tmp_path / "a.jsonl")


def test_half_a_surrogate_pair_is_not_written(tmp_path):
    with pytest.raises(DataError, match="surrogate"):
        write_examples(tmp_path / "a.jsonl", [Example("\ud800", output="x")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "what", "expected"),
    [
        (ADD, "instruction", "Add."),
        (ADD, "instruction_and_input", "Add.\n1 2"),
        (NAME, "instruction_and_input", "Name a color."),
        (Example("", "only input", "x"), "instruction", "only input"),
        (Example("", output="plain text"), "instruction", "plain text"),
    ],
)
def test_the_text_to_embed(example, what, expected):
    assert example.text(what) == expected


def test_keys_tell_every_part_apart():
    parts = [ADD, Example("Add.", "1 2", "3"), Example("Add.", "1", "2 3"), Example("Add.1 2", "", "3"), CHAT]
    parts.append(Example(CHAT.instruction, output=CHAT.output))
    assert len({example.key for example in parts}) == len(parts)
    assert all(len(example.key) == 16 and int(example.key, 16) >= 0 for example in parts)
    assert Example("q", output="a").prompt_key == Example("q", output="b", task="t").prompt_key


@pytest.mark.needs_shared
def test_the_shared_data_is_read_with_the_rows_its_readme_states(shared):
    folder = shared / "data"
    assert len(read_examples(folder / "dev" / "[cs]*.jsonl.gz")) == 420 + 46 + 85 + 240
    gsm8k = read_examples(folder / "dev" / "math_gsm8k.jsonl.gz")
    assert len(gsm8k) == 386
    assert {example.family for example in gsm8k} == {"math"}


def test_the_same_key_in_every_process():
    code = "from tclora.data import Example; print(Example('a', 'b', 'c', 't').key)"
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert found == {Example("a", "b", "c", "t").key + "\n"}
