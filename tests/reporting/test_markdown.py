"""Hostile text is shown and does nothing; checked on the text itself and on what a Markdown renderer makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tclora.errors import ShapeError
from tclora.reporting.markdown import bullets, code_block, escape, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("one\ntwo\r\n three", "one two three"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("tc_lora", "tc_lora"),
        ("_x_", "\\_x\\_"),
        ("**x**", "\\*\\*x\\*\\*"),
        ("[x](y)", "\\[x\\](y)"),
        ("see ![x](y)", "see ![x\\](y)"),
        ("2.1 [2.0, 2.2]", "2.1 [2.0, 2.2]"),
        ("[a]: b", "\\[a\\]: b"),
        ("# x", "\\# x"),
        ("1. x", "1\\. x"),
        ("2.300", "2.300"),
        ("- x", "\\- x"),
        ("-0.5", "-0.5"),
        ("http://x.y", "http&#58;//x.y"),
        ("a@b", "a&#64;b"),
        ("www.x", "www&#46;x"),
        ("$x$ ~~y~~ `z`", "\\$x\\$ \\~\\~y\\~\\~ \\`z\\`"),
        ("\x1b[31mred", "\\\\x1b[31mred"),
        ("", ""),
    ],
)
def test_escape(text, expected):
    assert escape(text) == expected


@given(st.text())
def test_escaped_text_is_one_printable_line_without_tags(text):
    escaped = escape(text)
    assert escaped.isprintable()
    assert not set(escaped) & set("<>\n")


@given(st.lists(st.lists(st.text(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_no_cell_text_can_change_the_shape_of_a_table(rows):
    lines = table(["a", "b", "c"], rows).split("\n")
    assert len(lines) == 2 + len(rows)
    for line in lines:
        # Unescaped pipes: those preceded by an even number of backslashes.
        pipes = [i for i, c in enumerate(line) if c == "|" and (i - len(line[:i].rstrip("\\"))) % 2 == 0]
        assert len(pipes) == 4


def test_columns_of_numbers_are_right_aligned():
    assert table(["x", "n", "y"], [["a", "1,000", "b"], ["b", "-", "2"]]).split("\n")[1] == "| --- | --: | --- |"


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="a table row does not fit its header"):
        table(["a", "b"], [["1", "2"], ["1"]])


def test_bullets_stay_on_their_lines():
    assert bullets(["a\n- b", "[ ] c"]) == "- a - b\n- \\[ ] c"


def test_a_fence_is_longer_than_any_in_the_text():
    assert code_block("x\n````\ny").split("\n")[0] == "`````"
    assert code_block("x", "sh") == "```sh\nx\n```"
