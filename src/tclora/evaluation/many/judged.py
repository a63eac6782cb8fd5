"""Values of programs on disk, so that a program is run once and not again when an evaluation goes on.

In: a task that runs code, its items and their answers. Out: the values that were kept. A key holds the item as it was
asked, what is right, and the answer. The name of the file holds all else that decides a value: this version of tclora,
the task's facts and, among them, the level and the limits of the sandbox. The limit of items and the seed are not in
it: they say which items there are, not what one is worth.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import tclora
from tclora.artifacts import digest_of
from tclora.evaluation.many.lines import LineStore
from tclora.evaluation.many.store import answer_json
from tclora.evaluation.tasks.task import Answer, Item, Task

__all__ = ["JudgedStore", "judged_key", "judged_name"]

_FORMAT = "tclora.evaluation.judged/1"
_NO_MATTER = ("limit", "seed")


class JudgedStore(LineStore[Mapping[str, float]]):
    """The value of each metric by the key of item and answer."""

    def _encode(self, value: Mapping[str, float]) -> Any:
        return dict(value)

    def _decode(self, plain: Any) -> Mapping[str, float] | None:
        numbers = isinstance(plain, dict) and all(isinstance(one, float) for one in plain.values())
        return plain if numbers and all(map(math.isfinite, plain.values())) else None


def judged_name(task: Task) -> str:
    """The name of the file that holds the values of one task's programs at one level of the sandbox."""
    facts = {name: fact for name, fact in task.facts.items() if name not in _NO_MATTER}
    return digest_of([_FORMAT, tclora.__version__, task.name, list(task.metrics), facts]) + ".judged.jsonl"


def judged_key(item: Item, answer: Answer) -> str:
    """The digest of one item and one answer to it."""
    asked = [asdict(one) for one in item.ask] if isinstance(item.ask, tuple) else asdict(item.ask)
    # What is right may be any object; one without a text of its own is then judged anew, which is no harm.
    return digest_of([item.id, asked, repr(item.gold), answer_json(answer)])
