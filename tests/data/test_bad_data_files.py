"""Bad and odd data files: each is read right, or refused with its file and line, quickly and in little memory."""

import gzip
import json
import os
import socket
import time
import tracemalloc

import pytest

from tclora.data import read_choice_items, read_examples
from tclora.errors import DataError, TcLoraError

GOOD = b'{"instruction": "Add.", "output": "3"}\n'


def _message(error: pytest.ExceptionInfo[TcLoraError]) -> str:
    return str(error.value)


def _row(**columns) -> bytes:
    return json.dumps({"instruction": "Add.", "output": "3"} | columns).encode() + b"\n"


def _turns(*pairs) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in pairs]}).encode() + b"\n"


# name: file name, content, line in the message (0: the file), text in the message
BAD = {
    "empty": ("a.jsonl", b"", 0, "has no rows"),
    "only blank lines": ("a.jsonl", b"\n \n\n", 0, "has no rows"),
    "empty array": ("a.json", b"[]", 0, "has no rows"),
    "table without rows": ("a.csv", b"instruction,output\n", 0, "has no rows"),
    "latin-1": (
        "a.jsonl",
        GOOD + '{"instruction": "é", "output": "3"}\n'.encode("latin-1"),
        2,
        "byte 0xe9 at offset 17",
    ),
    "utf-16": ("a.jsonl", GOOD.decode().encode("utf-16"), 1, "not UTF-8"),
    "truncated utf-8": ("a.jsonl", GOOD + b'{"instruction": "\xe2\x82', 2, "not UTF-8"),
    "gzip without its ending": ("a.jsonl", gzip.compress(GOOD), 1, "must be called .gz"),
    "ending without gzip": ("a.jsonl.gz", GOOD, 0, "gzip file is damaged"),
    "truncated gzip": ("a.jsonl.gz", gzip.compress(GOOD * 100)[:-10], 0, "gzip file is damaged"),
    "damaged gzip": ("a.jsonl.gz", gzip.compress(GOOD * 100)[:-8] + b"\0" * 8, 0, "gzip file is damaged"),
    "unknown ending": ("a.xlsx", GOOD, 0, r"expected  \.jsonl"),
    "no ending": ("data", GOOD, 0, "no ending"),
    "broken json": ("a.jsonl", GOOD + b'{"instruction": "Add."', 2, "JSON cannot be read"),
    "two values on a line": ("a.jsonl", GOOD.strip() + GOOD, 1, "more than one value"),
    "single quotes": ("a.jsonl", b"{'instruction': 'Add.'}", 1, "JSON cannot be read"),
    "pretty printed object": ("a.json", b'{\n "instruction": "Add."\n}', 1, "array of objects"),
    "row is a list": ("a.jsonl", GOOD + b'["Add.", "3"]\n', 2, "not a JSON object"),
    "row is text": ("a.jsonl", b'"Add."\n', 1, "not a JSON object"),
    "deep json": (
        "a.jsonl",
        GOOD + b'{"instruction": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        2,
        "nested too deeply",
    ),
    "deep array": ("a.json", b"[" * 200_000, 1, "nested too deeply"),
    "endless number": ("a.jsonl", b'{"output": ' + b"9" * 10_000 + b"}", 1, "JSON cannot be read"),
    "array not closed": ("a.json", b"[" + GOOD, 1, "no comma or closing bracket"),
    "array ends after a comma": ("a.json", b"[" + GOOD + b",", 0, "not closed"),
    "array and more": ("a.json", b"[" + GOOD + b"] {}", 0, "something follows"),
    "array of numbers": ("a.json", b"[\n\n1]", 3, "not a JSON object"),
    "array, bad third row": (
        "a.json",
        b"[" + GOOD + b",\n" + GOOD + b",\n" + b'{"instruction": "x"}]',
        5,
        "no 'output'",
    ),
    "nan output": ("a.jsonl", GOOD + _row(output=float("nan")), 2, "'output' is not text"),
    "infinite output": ("a.jsonl", b'{"instruction": "Add.", "output": 1e999}', 1, "'output' is not text"),
    "null output": ("a.jsonl", _row(output=None), 1, "'output' is not text"),
    "null instruction": ("a.jsonl", _row(instruction=None), 1, "'instruction' is not text"),
    "boolean output": ("a.jsonl", _row(output=True), 1, "'output' is not text"),
    "list output": ("a.jsonl", _row(output=["3"]), 1, "found     list"),
    "object input": ("a.jsonl", _row(input={"a": 1}), 1, "'input' is not text"),
    "half a surrogate pair": ("a.jsonl", b'{"instruction": "\\ud800", "output": "3"}', 1, "surrogate"),
    "empty output": ("a.jsonl", GOOD + _row(output=" \n"), 2, "empty output"),
    "no output": ("a.jsonl", GOOD + b'{"instruction": "Add."}\n', 2, "no 'output'"),
    "no prompt": ("a.jsonl", _row(instruction=" "), 1, "no instruction and no input"),
    "empty text": ("a.jsonl", b'{"text": "  "}', 1, "empty text"),
    "wrong columns": ("a.jsonl", b'{"question": "Add.", "answer": "3"}', 1, "data.fields"),
    "no columns": ("a.jsonl", b"{}", 1, "no columns"),
    "mixed formats": ("a.jsonl", GOOD + b'{"prompt": "Add.", "completion": "3"}\n', 2, "no 'instruction'"),
    "mixed formats, turns": ("a.jsonl", _turns(("user", "a"), ("assistant", "b")) + GOOD, 2, "not a list of turns"),
    "no turns": ("a.jsonl", b'{"messages": []}', 1, "not a list of turns"),
    "turn is text": ("a.jsonl", b'{"messages": ["hi"]}', 1, r"messages\[0\] is not a turn"),
    "unknown role": ("a.jsonl", _turns(("user", "a"), ("tool", "b")), 1, r"messages\[1\] has a role"),
    "role is a list": ("a.jsonl", _turns((["user"], "a")), 1, r"messages\[0\] has a role"),
    "ends with the user": ("a.jsonl", _turns(("user", "a"), ("assistant", "b"), ("user", "c")), 1, "does not end with"),
    "only the assistant": ("a.jsonl", _turns(("assistant", "b")), 1, "does not follow a user turn"),
    "two answers": ("a.jsonl", _turns(("user", "a"), ("assistant", "b"), ("assistant", "c")), 1, "does not follow"),
    "null content": ("a.jsonl", _turns(("user", "a"), ("assistant", None)), 1, r"'messages\[1\].content' is not text"),
    "picture": (
        "a.jsonl",
        _turns(("user", [{"type": "image", "url": "x"}]), ("assistant", "b")),
        1,
        r"'messages\[0\].content' is not text",
    ),
    "control characters": ("a.jsonl", b'{"\\u001b[31mred": "x"}', 1, r"\\x1b\[31mred"),
    "table, row too short": ("a.csv", b"instruction,output\nAdd.,3\nAdd.\n", 3, "1 cells"),
    "table, row too long": ("a.csv", b"instruction,output\nAdd.,3,4\n", 2, "3 cells"),
    "table, doubled column": ("a.csv", b"instruction,output,output\na,b,c\n", 1, "does not name its columns"),
    "table, unnamed column": ("a.csv", b"instruction,,output\na,b,c\n", 1, "does not name its columns"),
    "table, open quote": ("a.csv", b'instruction,output\n"Add.,3\n', 2, "unexpected end of data"),
    "table, semicolons": ("a.csv", b"instruction;output\na;b\n", 2, "instruction;output"),
    "not parquet": ("a.parquet", GOOD * 10, 0, "Parquet file cannot be read"),
    "truncated parquet": ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", 0, "Parquet file cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_place(tmp_path, name):
    file, content, line, message = BAD[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_examples(path)
    assert str(path) + (f":{line}" if line else "") in _message(error)
    assert "\x1b" not in _message(error)


def test_a_folder_a_pipe_a_device_and_a_dead_link_are_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "dead.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("socket.jsonl")
        cases = {"folder": "folder was named", "pipe": "pipe, socket or device", "device": "pipe, socket or device"}
        cases |= {"socket": "pipe, socket", "dead": "cannot be read", "loop": "cannot be read", "none": "no data file"}
        for name, message in cases.items():
            with pytest.raises(DataError, match=message):
                read_examples(tmp_path / f"{name}.jsonl")


def test_no_file_and_a_file_twice_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match="no data file matches"):
        read_examples([tmp_path / "*.csv"])
    with pytest.raises(DataError, match="no data file matches"):
        read_examples(["a\0b.jsonl"])
    with pytest.raises(DataError, match=r"(?s)named by an address.*hf download"):
        read_examples(["hf://datasets/owner/name"])
    with pytest.raises(DataError, match="no data file is named"):
        read_examples([])
    with pytest.raises(DataError, match="named twice"):
        read_examples([tmp_path / "*.jsonl", tmp_path / "a.jsonl"])


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(DataError, match="Permission denied"):
        read_examples(path)


@pytest.mark.parametrize(
    ("name", "message"), [("long.jsonl", r"long\.jsonl:2"), ("long.jsonl.gz", "too long"), ("bomb.jsonl.gz", "unpacks")]
)
def test_giants_are_refused_in_little_time_and_memory(tmp_path, name, message):
    path = tmp_path / name
    if name == "long.jsonl":
        with path.open("wb") as file:
            file.write(GOOD)
            file.truncate(200 * 2**20)  # a line of 200 MiB, sparse on disk
    else:
        line = b" " * (50 * 2**20 if name.startswith("long") else 2**20 - 1) + b"\n"
        with gzip.open(path, "wb", compresslevel=6) as file:
            for _ in range(1 if name.startswith("long") else 60):
                file.write(line)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(DataError, match=message):
        read_examples(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A line is read up to 8 MiB, and copied once or twice while buffers grow.
    assert peak < 64 * 2**20
    assert time.perf_counter() - started < 10


def test_a_repetitive_but_honest_gzip_is_read(tmp_path):
    # 12 MiB that shrink some 200 times: repetitive templates do, and below 16 MiB no ratio is refused.
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(_row(instruction="Add the numbers. " * 700) * 1000)
    assert len(read_examples(path)) == 1000


def test_columns_that_are_not_used_may_hold_anything(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"instruction": "Add.", "output": "3", "score": NaN, "tags": [[[]]], "x": null}\n')
    assert read_examples(path)[0].output == "3"


ITEM = {"id": "1", "context": "", "question": "Sky _ ?", "choices": ["blue", "red"], "answer": 0}
BAD_ITEMS = {
    "no choices": ({"choices": None}, "no list of choices"),
    "one choice": ({"choices": ["blue"]}, "no list of choices"),
    "choices as text": ({"choices": "blue"}, "no list of choices"),
    "empty choice": ({"choices": ["blue", " "]}, "a choice is empty"),
    "choice is null": ({"choices": ["blue", None]}, r"'choices\[1\]' is not text"),
    "answer too large": ({"answer": 2}, "not an index"),
    "answer negative": ({"answer": -1}, "not an index"),
    "answer as text": ({"answer": "0"}, "not an index"),
    "answer as a letter": ({"answer": "A"}, "from 0 to 1"),
    "answer true": ({"answer": True}, "not an index"),
    "answer as a float": ({"answer": 1.0}, "not an index"),
    "no question": ({"question": None}, "'question' is not text"),
    "context is a list": ({"context": []}, "'context' is not text"),
    "id is null": ({"id": None}, "'id' is not text"),
    "id twice": ({}, "two items have one id"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_a_bad_choice_item_is_refused_with_its_line(tmp_path, name):
    change, message = BAD_ITEMS[name]
    path = tmp_path / "quiz.jsonl"
    bad = ITEM | {"id": "1" if name == "id twice" else "2"} | change
    path.write_text(json.dumps(ITEM) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=message) as error:
        read_choice_items(path)
    assert f"{path}:2" in _message(error)


def test_choice_items_take_their_task_from_the_row_or_the_file(tmp_path):
    path = tmp_path / "quiz.jsonl.gz"
    rows = [ITEM, ITEM | {"id": 7, "task": "colors", "choices": ["blue", 3, 4.5]}]
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    first, second = read_choice_items(path)
    assert (first.task, first.question, first.choices, first.answer) == ("quiz", "Sky _ ?", ("blue", "red"), 0)
    assert (second.task, second.id, second.choices) == ("colors", "7", ("blue", "3", "4.5"))


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "n_items", "n_tasks"),
    [("winogrande", 1267, 1), ("openbookqa", 500, 1), ("arc_challenge", 1172, 1)],
)
def test_the_shared_benchmarks_are_read_whole(shared, name, n_items, n_tasks):
    items = read_choice_items(shared / "data" / "eval" / f"{name}.jsonl.gz")
    assert (len(items), len({item.task for item in items})) == (n_items, n_tasks)
