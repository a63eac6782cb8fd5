"""Who answers the items of a task: tclora's own passes, or lm-eval's model class, with whatever adapter is attached.

In: a task and the indices of the items that are wanted. Out: answers in batches, each kept before the next is begun.
A back end names every answer by a key, the digest of all that decides it but base and adapter. Refused: log-likelihoods
that are not finite.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from tclora.artifacts import digest_of
from tclora.errors import NumericalError
from tclora.evaluation.many.asks import Asked, ask_items, shown_prompt
from tclora.evaluation.tasks.task import Answer, Item, Likelihoods, Task
from tclora.models import Base, Tokens, complete_prompts, score_continuations, shares_past, useful_prefix

__all__ = ["Backend", "LmEvalBackend", "OwnBackend"]

Batch = tuple[list[int], list[Answer]]

_LM_EVAL_REQUESTS = 256
"""Requests given to lm-eval at once; it sorts each lot by length, and answers are kept between lots."""


@runtime_checkable
class Backend(Protocol):
    """Answers items of tasks on the base as it stands."""

    @property
    def name(self) -> str: ...

    def keys(self, task: Task) -> Sequence[str]:
        """The key of each item's answer, in the order of the items."""
        ...

    def costs(self, task: Task) -> Sequence[int]:
        """About how many tokens each item takes."""
        ...

    def n_truncated(self, task: Task) -> int:
        """Items whose prompt was cut to fit the window."""
        ...

    def first_prompt(self, task: Task) -> str:
        """What the model reads of the first item, word for word."""
        ...

    def answers(self, task: Task, wanted: Sequence[int]) -> Iterator[Batch]:
        """Answer the wanted items, with the adapter that is attached now.

        Raises:
            NumericalError: a log-likelihood is not finite; names task and item.
        """
        ...


class OwnBackend:
    """The engine of this library: lengths sorted, common beginnings read once."""

    name = "tclora"

    def __init__(self, base: Base, *, batch_size: int, seed: int = 0, share: bool | None = None):
        """`share`: whether common beginnings are read once; None finds out whether the model allows it."""
        self._base, self._batch_size, self._seed, self._share = base, batch_size, seed, share
        self._asked: dict[str, list[Asked]] = {}

    def keys(self, task: Task) -> Sequence[str]:
        """The digest of each item's tokens and settings."""
        return [asked.key for asked in self._of(task)]

    def costs(self, task: Task) -> Sequence[int]:
        """Tokens of prompts and continuations, and the most that may be generated."""
        return [asked.cost for asked in self._of(task)]

    def n_truncated(self, task: Task) -> int:
        """Items whose prompt was cut to fit the window."""
        return sum(asked.truncated for asked in self._of(task))

    def first_prompt(self, task: Task) -> str:
        """The first item's prompt behind the template, with its special tokens."""
        return shown_prompt(self._base, task.items()[0])

    def shares(self, longest: int) -> bool:
        """Whether common beginnings are read once for rows of up to `longest` tokens."""
        if self._share is None:
            self._share = shares_past(self._base, longest)
        return self._share

    def answers(self, task: Task, wanted: Sequence[int]) -> Iterator[Batch]:
        """Answer by batches of whole items; items whose prompts begin alike are answered together."""
        asked = self._of(task)
        share = self.shares(max(map(_longest, (asked[index] for index in wanted))))
        for run in _runs(asked, wanted, share):
            yield from (
                self._texts(asked, run, share) if asked[run[0]].completion else self._sums(task, asked, run, share)
            )

    def _of(self, task: Task) -> list[Asked]:
        if task.name not in self._asked:
            self._asked[task.name] = ask_items(self._base, task.name, task.items(), seed=self._seed)
        return self._asked[task.name]

    def _sums(self, task: Task, asked: Sequence[Asked], run: Sequence[int], share: bool) -> Iterator[Batch]:
        groups = [asked[index].rows for index in run]
        for places, scores in score_continuations(self._base, groups, batch_size=self._batch_size, share=share):
            done = [run[place] for place in places]
            answers: list[Answer] = []
            for index, rows in zip(done, scores, strict=True):
                sums, counts, greedy = (tuple(column) for column in zip(*rows, strict=True))
                _check_finite(task, task.items()[index], sums)
                answers.append(Likelihoods(sums, counts, greedy))
            yield done, answers

    def _texts(self, asked: Sequence[Asked], run: Sequence[int], share: bool) -> Iterator[Batch]:
        wanted = [one for one in (asked[index].completion for index in run) if one is not None]
        for places, texts in complete_prompts(self._base, wanted, batch_size=self._batch_size, share=share):
            yield [run[place] for place in places], list(texts)


class LmEvalBackend:
    """lm-eval's own model class around the same base; its tasks only."""

    name = "lm-eval"

    def __init__(self, base: Base, *, batch_size: int, seed: int = 0):
        from tclora.evaluation.lm_eval_backend import LmEvalModel

        self._model: Any = LmEvalModel(base, batch_size=batch_size)
        self._window, self._seed = base.max_length, seed

    def keys(self, task: Any) -> Sequence[str]:
        """The digest of lm-eval's requests, the window and the seed."""
        return [
            digest_of(["lm-eval", self._window, self._seed, [[r.request_type, _plain(r.args)] for r in asked]])
            for asked in task.requests.values()
        ]

    def costs(self, task: Any) -> Sequence[int]:
        """About four characters a token, for a generated answer what the task allows."""
        return [
            sum(len(text) // 4 + 1 for r in asked for text in r.args if isinstance(text, str))
            + getattr(item.ask, "max_new_tokens", 0)
            for asked, item in zip(task.requests.values(), task.items(), strict=True)
        ]

    def n_truncated(self, task: Any) -> int:
        """Not known: lm-eval cuts prompts without saying so."""
        return 0

    def first_prompt(self, task: Any) -> str:
        """The first request's text, as lm-eval hands it to its model."""
        first = next(iter(task.requests.values()))[0].args
        return "⟨scored⟩".join(text for text in first if isinstance(text, str))

    def answers(self, task: Any, wanted: Sequence[int]) -> Iterator[Batch]:
        """Answer by lots of requests."""
        items = task.items()
        for lot in _lots(wanted, [len(task.requests[item.id]) for item in items]):
            yield list(lot), list(self._model.answers(task, [items[index] for index in lot], seed=self._seed))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _lots(wanted: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    lot: list[int] = []
    for index in wanted:
        if lot and sum(sizes[i] for i in lot) + sizes[index] > _LM_EVAL_REQUESTS:
            yield lot
            lot = []
        lot.append(index)
    if lot:
        yield lot


def _runs(asked: Sequence[Asked], wanted: Sequence[int], share: bool) -> list[list[int]]:
    """Items answered together: of one kind; groups whose prompts share a beginning of their own go apart."""
    runs: list[list[int]] = []
    for kind in (True, False):
        mine = [index for index in wanted if (asked[index].completion is not None) == kind]
        pool: list[int] = []
        for group in dict.fromkeys(asked[index].group for index in mine) if share else ():
            members = [index for index in mine if asked[index].group == group]
            (runs.append(members) if useful_prefix(_rows(asked, members)) else pool.extend(members))
        runs += [part for part in ((sorted(pool) if share else mine),) if part]
    return runs


def _rows(asked: Sequence[Asked], members: Sequence[int]) -> list[Tokens]:
    rows: list[Tokens] = []
    for one in (asked[index] for index in members):
        rows += one.rows if one.completion is None else [Tokens(one.completion.ids, len(one.completion.ids))]
    return rows


def _longest(asked: Asked) -> int:
    if asked.completion is not None:
        return len(asked.completion.ids) + asked.completion.max_new_tokens
    return max(len(row.ids) for row in asked.rows)


def _check_finite(task: Task, item: Item, sums: Sequence[float]) -> None:
    if not all(map(math.isfinite, sums)):
        raise NumericalError(
            "a log-likelihood is not finite",
            where=f"{task.name}, item {item.id}",
            found=", ".join(map(str, sums)),
            expected="numbers",
            do="check the adapter with `tclora check`, or evaluate in float32 or bfloat16",
        )
