"""Multiple-choice files: `{"id", "context", "question", "choices", "answer"[, "task"]}`, `answer` an index.

`context` may be missing or empty, `task` is the file's name where it is missing, and a `_` in a question stays (the
scorer knows what to do with a blank). Refused: fewer than two choices, an empty or non-text one, an answer that is no
index of them, two items with one id and task.
"""

from pathlib import Path

from tclora.data.example import ChoiceItem
from tclora.data.files import expand_paths
from tclora.data.formats import as_text
from tclora.data.rows import Row, read_rows, stem
from tclora.errors import DataError

__all__ = ["read_choice_items"]


def read_choice_items(path: str | Path) -> list[ChoiceItem]:
    """Read the multiple-choice items of one file (or of all files a glob names), in order.

    Raises:
        DataError: a file or an item cannot be read; names file, line and column.
    """
    items: list[ChoiceItem] = []
    seen: set[tuple[str, str]] = set()
    for file in expand_paths(path):
        for row in read_rows(file):
            item = _item(row, stem(file))
            if (item.task, item.id) in seen:
                raise DataError("two items have one id", where=row.where, found=item.id, expected="one id for each")
            seen.add((item.task, item.id))
            items.append(item)
    return items


def _item(row: Row, task: str) -> ChoiceItem:
    choices = _choices(row)
    return ChoiceItem(
        id=as_text(row, "id"),
        task=as_text(row, "task", optional=True) or task,
        context=as_text(row, "context", optional=True),
        question=as_text(row, "question"),
        choices=choices,
        answer=_answer(row, len(choices)),
    )


def _choices(row: Row) -> tuple[str, ...]:
    choices = row.values.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        found = "none" if choices is None else type(choices).__name__
        raise DataError("an item has no list of choices", where=row.where, found=found, expected="two or more")
    named = {f"choices[{index}]": choice for index, choice in enumerate(choices)}
    texts = tuple(as_text(Row(row.where, named), name) for name in named)
    if not all(text.strip() for text in texts):
        raise DataError("a choice is empty", where=row.where, expected="text in each choice")
    return texts


def _answer(row: Row, n_choices: int) -> int:
    answer = row.values.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < n_choices:
        raise DataError(
            "'answer' is not an index of the choices",
            where=row.where,
            found=repr(answer)[:80],
            expected=f"a whole number from 0 to {n_choices - 1}",
        )
    return answer
