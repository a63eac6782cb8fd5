"""What a loader is asked, and the one kind of task that all loaders give back.

In: a `Request`. Out: a `BuiltTask`, which is a `Task`: items with their prompts rendered, and the function that scores
one of them. Refused: a limit below 1, shots below 0, more shots than there are examples, and a shot that is a test
item.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from tclora.errors import ConfigError, DataError
from tclora.evaluation.matching import choose_examples
from tclora.evaluation.tasks.task import Answer, Item
from tclora.sandbox import Sandbox

__all__ = ["BuiltTask", "CodeScorer", "Request", "Scorer", "chosen", "draw_shots", "in_sandbox"]

Scorer = Callable[[Item, Answer], Mapping[str, float]]
CodeScorer = Callable[[Item, Answer, Sandbox], Mapping[str, float]]
T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """How a task is wanted."""

    data: Path | None = None
    """The folder of the shared schema; None: $TCLORA_DATA, then $TCLORA_SHARED/data, then the Hub."""
    shots: int | None = None
    """Solved examples before each question; None: the task's usual number."""
    limit: int | None = None
    """Items drawn by the seed; None: all."""
    seed: int = 0
    plain: bool = True
    """Prompts as plain text, as in lm-eval; False: instructions for the base's own template."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError("a limit of items is too small", found=self.limit, expected="1 or more")
        if self.shots is not None and self.shots < 0:
            raise ConfigError("a number of shots is negative", found=self.shots, expected="0 or more")

    def facts(self, shots: int) -> dict[str, object]:
        """What of the request decides items and prompts, with the number of shots that was settled."""
        facts: dict[str, object] = {"shots": shots, "prompt_format": "plain" if self.plain else "template"}
        if self.limit is not None:
            facts["limit"] = self.limit
        if self.limit is not None or shots:
            facts["seed"] = self.seed
        return facts


@dataclass(frozen=True)
class BuiltTask:
    """A task as values: its items and the function that scores one."""

    name: str
    metrics: tuple[str, ...]
    built: tuple[Item, ...]
    scorer: Scorer | CodeScorer
    facts: Mapping[str, object]
    lower_is_better: tuple[str, ...] = ()
    chance: Mapping[str, float] = field(default_factory=dict)
    runs_code: bool = False
    """Whether `scorer` is a `CodeScorer`, which takes a sandbox too."""
    sandbox: Sandbox | None = None

    def items(self) -> Sequence[Item]:
        """All items, in the order of the file."""
        return self.built

    def score(self, item: Item, answer: Answer) -> Mapping[str, float]:
        """The item's value of each metric.

        Programs run in the task's sandbox, else in the best that works here, which is tried when it is first needed.

        Raises:
            ConfigError: code is to be run, and no sandbox works on this machine.
        """
        arguments = (self.sandbox or _default_sandbox(),) if self.runs_code else ()
        return self.scorer(item, answer, *arguments)


def in_sandbox(task: BuiltTask, sandbox: Sandbox) -> BuiltTask:
    """The same task with its programs run in this sandbox, whose level and limits join the task's facts.

    Raises:
        ConfigError: the task runs no code.
    """
    if not task.runs_code:
        raise ConfigError("the task runs no code, so it needs no sandbox", where=task.name)
    return replace(task, sandbox=sandbox, facts={**task.facts, "sandbox": sandbox.facts})


def chosen(rows: Sequence[T], request: Request, key: Callable[[T], str]) -> list[T]:
    """The rows of the request: all, or `limit` of them by a hash of seed and key, in the order of the file.

    A larger limit only adds items, so answers already in the cache serve again.
    """
    if request.limit is None:
        return list(rows)
    keys = [key(row) for row in rows]
    return [rows[i] for i in choose_examples(keys, [0] * len(keys), request.limit, seed=request.seed)]


def draw_shots(
    examples: Sequence[T], n: int, *, seed: int, text: Callable[[T], str], tested: Sequence[str], where: object
) -> list[T]:
    """Draw `n` solved examples, the same ones for every item.

    Args:
        text: the question of an example, by which it is told from the items that are tested.
        tested: the questions of all items.

    Raises:
        ConfigError: there are fewer examples than shots.
        DataError: an example drawn is a test item.
    """
    if n > len(examples):
        raise ConfigError("there are too few examples for the shots", where=where, found=len(examples), expected=n)
    drawn = choose_examples([text(example) for example in examples], [0] * len(examples), n, seed=seed)
    questions = {" ".join(question.split()) for question in tested}
    for i in drawn:
        if " ".join(text(examples[i]).split()) in questions:
            raise DataError(
                "a few-shot example is a test item",
                where=where,
                found=text(examples[i])[:100],
                do="take examples that are not tested",
            )
    return [examples[i] for i in drawn]


@cache
def _default_sandbox() -> Sandbox:
    return Sandbox()
