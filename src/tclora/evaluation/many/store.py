"""Answers on disk: one file for each pair of a base and an adapter (or the bare base), for each back end.

In: answers by the digest of what was asked. Out: the same later. An answer that is no finite likelihood is not read,
and its item is asked again.
"""

import math
from typing import Any

from tclora.artifacts import digest_of
from tclora.evaluation.many.lines import LineStore
from tclora.evaluation.tasks.task import Answer, Likelihoods

__all__ = ["AnswerStore", "answer_json", "store_name"]

_FORMAT = "tclora.evaluation.many/1"


def store_name(base: str, adapter: str | None, backend: str) -> str:
    """The name of the file that holds the answers of one adapter on one base."""
    return digest_of([_FORMAT, base, adapter, backend]) + ".jsonl"


class AnswerStore(LineStore[Answer]):
    """The answers of one adapter by the key of what was asked."""

    def _encode(self, value: Answer) -> Any:
        return answer_json(value)

    def _decode(self, plain: Any) -> Answer | None:
        if isinstance(plain, str):
            return plain
        sums, n_tokens, greedy = (tuple(plain[name]) for name in ("sums", "n_tokens", "greedy"))
        return Likelihoods(sums, n_tokens, greedy) if all(map(math.isfinite, sums)) else None


def answer_json(answer: Answer) -> Any:
    """An answer as plain JSON: a text, or sums, numbers of tokens and greedy flags."""
    if isinstance(answer, str):
        return answer
    return {"sums": list(answer.sums), "n_tokens": list(answer.n_tokens), "greedy": list(answer.greedy)}
