"""Examples one at a time: the same as read at once, from any row to any other, and counted without parsing."""

import pytest

from tclora.data import Example, Turn, count_examples, iter_examples, read_examples, write_examples
from tclora.errors import DataError

EXAMPLES = [
    Example("Add.", "1 2", "3", "sums"),
    Example("", "", "Plain text\nof two lines.", ""),
    Example("Say it again.", "", "So.", "", (Turn("user", "Hi"), Turn("assistant", "Ho"))),
    Example('Quote \u2028 \x85 and "marks".', "", "Ä", "odd"),
]


@pytest.fixture
def path(tmp_path):
    write_examples(tmp_path / "train.jsonl", EXAMPLES)
    return tmp_path / "train.jsonl"


def test_they_are_the_examples_that_were_written(path):
    assert list(iter_examples(path)) == EXAMPLES == read_examples(path)
    assert count_examples(path) == 4


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("stop", [None, *range(6)])
def test_a_stretch_is_a_slice_whatever_its_first_row_is(path, start, stop):
    if stop is None or start <= stop:
        assert list(iter_examples(path, start=start, stop=stop)) == EXAMPLES[start:stop]


def test_blank_lines_are_no_examples(path):
    path.write_text("\n" + path.read_text().replace("\n", "\n \n"))
    assert count_examples(path) == 4
    assert list(iter_examples(path, start=1, stop=3)) == EXAMPLES[1:3]


def test_rows_before_the_start_are_not_parsed_and_a_bad_row_is_named(path):
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], "{broken", *lines[2:]]))
    assert list(iter_examples(path, start=2)) == EXAMPLES[2:]
    stream = iter_examples(path)
    assert next(stream) == EXAMPLES[0]
    with pytest.raises(DataError, match=r"train\.jsonl:2"):
        next(stream)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for function in (count_examples, lambda path: list(iter_examples(path))):
        with pytest.raises(DataError, match="no data file matches"):
            function(tmp_path / "nowhere.jsonl")
