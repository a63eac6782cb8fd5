"""What a task is: items, what is asked of the model for each, and how the answers are scored.

In: nothing of a model. Out: `Task`s. A task asks for each item either the log-likelihood of some continuations, or one
generated text; the engine answers, keeps the raw answers on disk, and gives them back to `score`. So a figure can be
made again without the model, and one engine serves every task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Answer", "Ask", "Continuation", "Generation", "Item", "Likelihoods", "Prompt", "Task"]


@dataclass(frozen=True)
class Prompt:
    """What stands before the answer.

    `plain` texts go to the model as they are (bos before them, where the tokenizer adds one by itself), as in lm-eval;
    others are an instruction, which the base's own template puts into its prompt format.
    """

    text: str
    plain: bool = True


@dataclass(frozen=True)
class Continuation:
    """A text whose log-likelihood behind a prompt is asked for."""

    prompt: Prompt
    text: str


@dataclass(frozen=True)
class Generation:
    """A text to be generated behind a prompt, until one of `stop` or `max_new_tokens`."""

    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    """0: greedy. Above 0 the answer is drawn, seeded by the item."""
    top_p: float = 1.0


Ask = tuple[Continuation, ...] | Generation


@dataclass(frozen=True)
class Likelihoods:
    """The answer to continuations, in their order."""

    sums: tuple[float, ...]
    """Nats, the log-likelihood of each continuation (at most 0)."""
    n_tokens: tuple[int, ...]
    greedy: tuple[bool, ...]
    """Whether each continuation is what greedy decoding would give."""


Answer = Likelihoods | str


@dataclass(frozen=True)
class Item:
    """One question: its id within the task, what is asked, and whatever the task needs to score it."""

    id: str
    ask: Ask
    gold: object
    group: str = ""
    """A part of the task that has figures of its own (a BBH subtask, a family)."""


@runtime_checkable
class Task(Protocol):
    """A benchmark or the user's own file."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures, the main one first; higher is better unless listed in `lower_is_better`."""
        ...

    @property
    def lower_is_better(self) -> tuple[str, ...]: ...

    @property
    def chance(self) -> Mapping[str, float]:
        """The figure of a uniform guess, by metric, where there is one."""
        ...

    @property
    def runs_code(self) -> bool:
        """Whether `score` runs generated code, which needs the user's leave."""
        ...

    @property
    def facts(self) -> Mapping[str, object]:
        """What decides the prompts: file and digest, number of shots, prompt format; stored with every result."""
        ...

    def items(self) -> Sequence[Item]:
        """All items, in the order of the file, with their prompts rendered."""
        ...

    def score(self, item: Item, answer: Answer) -> Mapping[str, float]:
        """The item's value of each metric; shares are 0 or 1 (or a fraction, for ROUGE-L)."""
        ...
