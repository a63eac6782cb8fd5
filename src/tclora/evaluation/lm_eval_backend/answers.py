"""lm-eval's model class around a loaded base: the answers to items, computed by lm-eval.

In: a `Base`, loaded once; items of `LmEvalTask`s. Out: answers in the engine's form. An adapter is whatever is attached
to the base while `answers` runs (`models.attached`), so no second model is loaded. Log-softmax is taken in float32;
`lm_eval` alone takes it in the model's dtype, which differs for half-precision bases only.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tclora.errors import MissingExtraError, NumericalError
from tclora.evaluation.lm_eval_backend.loading import quiet
from tclora.evaluation.lm_eval_backend.task import LmEvalTask
from tclora.evaluation.tasks.task import Answer, Item, Likelihoods
from tclora.models import Base

__all__ = ["LmEvalModel"]

_REQUESTS_AT_ONCE = 256
"""Requests given to lm-eval in one call. It sorts each call by length, so few large calls are faster; progress is told
between calls."""


class LmEvalModel:
    """A base as lm-eval's `HFLM`, made once and used for every adapter."""

    def __init__(self, base: Base, *, batch_size: int) -> None:
        """Wrap the base's model; a copy of the tokenizer is used, since lm-eval sets its padding.

        Raises:
            MissingExtraError: lm-eval or what its model class needs is not installed.
        """
        self._base = base
        self._model = _wrapped(base, batch_size)

    def answers(
        self,
        task: LmEvalTask,
        items: Sequence[Item],
        *,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Answer]:
        """Answer items with the adapter now attached to the base.

        Args:
            seed: draws sampled texts, for tasks that sample; the global generator is left as it was.
            on_progress: called with items done and items in all.

        Raises:
            NumericalError: a log-likelihood is not finite; names task and item.
        """
        found: list[Answer] = []
        for part in _parts(items, [len(task.requests[item.id]) for item in items]):
            requests = [request for item in part for request in task.requests[item.id]]
            responses = iter(self._respond(requests, seed))
            for item in part:
                own = task.requests[item.id]
                found.append(self._answer(task, item, [(request, next(responses)) for request in own]))
            if on_progress is not None:
                on_progress(len(found), len(items))
        return found

    def _respond(self, requests: Sequence[Any], seed: int) -> list[Any]:
        respond = getattr(self._model, requests[0].request_type)
        devices = [self._base.device] if self._base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            return respond(list(requests), disable_tqdm=True)

    def _answer(self, task: LmEvalTask, item: Item, answered: Sequence[tuple[Any, Any]]) -> Answer:
        kind = answered[0][0].request_type
        if kind == "generate_until":
            return answered[0][1]
        pairs = [(response, False) if kind == "loglikelihood_rolling" else response for _, response in answered]
        sums = tuple(float(likelihood) for likelihood, _ in pairs)
        if not torch.isfinite(torch.tensor(sums)).all():
            raise NumericalError(
                "a log-likelihood is not finite",
                where=f"{task.name}, document {item.id}",
                found=sums,
                do="check the adapter with `tclora check`, or load the base in float32",
            )
        n_tokens = tuple(self._n_tokens(request) for request, _ in answered)
        return Likelihoods(sums, n_tokens, tuple(bool(greedy) for _, greedy in pairs))

    def _n_tokens(self, request: Any) -> int:
        *contexts, continuation = request.args
        if not contexts or contexts[0] == "":
            return len(self._model.tok_encode(continuation, add_special_tokens=False))
        return len(self._model._encode_pair(contexts[0], continuation)[1])


def _wrapped(base: Base, batch_size: int) -> Any:
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise MissingExtraError(
            "lm-eval's model class cannot be loaded",
            where="--backend lm-eval",
            found=str(error),
            expected="the 'eval' extra",
            do="pip install 'tclora[eval]'",
        ) from None
    options: dict[str, Any] = {
        "pretrained": base.model,
        "backend": "causal",
        "tokenizer": copy.deepcopy(base.tokenizer),
        "max_length": base.max_length,
        "batch_size": batch_size,
        "softmax_dtype": "float32",
    }
    with quiet():
        return HFLM(**options)


def _parts(items: Sequence[Item], sizes: Sequence[int]) -> list[list[Item]]:
    parts: list[list[Item]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if size > room or not parts:
            parts.append([])
            room = _REQUESTS_AT_ONCE
        parts[-1].append(item)
        room -= size
    return parts
