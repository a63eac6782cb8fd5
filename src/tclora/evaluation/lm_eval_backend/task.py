"""One task of lm-eval as a `Task`: its documents are the items, its prompts the asks, its metrics the scores.

In: a task object of lm-eval. Out: `LmEvalTask`, which any engine can run and score: the prompts are lm-eval's requests,
made once, and `score` is lm-eval's own `apply_filters` and `process_results` on one document. Left out, and named in
`facts`: metrics that lm-eval makes from all documents at once (perplexity, F1, BLEU), since they have no value for one
item. Refused: a task with no other.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tclora.errors import ConfigError, DataError
from tclora.evaluation.tasks.task import Answer, Ask, Continuation, Generation, Item, Likelihoods, Prompt

__all__ = ["LmEvalTask", "wrap_task"]

_ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
# lm-eval's own default where a task says nothing.
_MAX_NEW_TOKENS = 256
_TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class LmEvalTask:
    """A task of lm-eval with its prompts made; `requests` holds lm-eval's own, by item id and in the order asked."""

    name: str
    metrics: tuple[str, ...]
    lower_is_better: tuple[str, ...]
    chance: Mapping[str, float]
    facts: Mapping[str, object]
    requests: Mapping[str, tuple[Any, ...]]
    source: Any
    runs_code: bool = False

    def items(self) -> Sequence[Item]:
        """Documents in lm-eval's order; an id is lm-eval's `doc_id`."""
        return [Item(key, _ask(asked), _gold(self.source, asked[0].doc)) for key, asked in self.requests.items()]

    def score(self, item: Item, answer: Answer) -> Mapping[str, float]:
        """The document's value of each metric, from lm-eval's filters and `process_results`.

        Raises:
            DataError: the task gives this document no value of a metric that it gives others.
        """
        scores = _scores(self.source, self.requests[item.id], _responses(self.requests[item.id], answer))
        absent = [metric for metric in self.metrics if metric not in scores]
        if absent:
            raise DataError(
                "lm-eval's task scores a document in part only",
                where=f"{self.name}, document {item.id}",
                found=f"no value of {', '.join(absent)}",
                expected="a number for each metric of the task",
                do="leave the task out",
            )
        return {metric: float(scores[metric]) for metric in self.metrics}


def wrap_task(name: str, task: Any, *, limit: int | None, seed: int) -> LmEvalTask:
    """Make the prompts of a loaded lm-eval task.

    Raises:
        DataError: it has no documents to evaluate, or its prompts cannot be made from them.
        ConfigError: it has no metric of single documents.
    """
    requests = _build(name, task, limit)
    first = next(iter(requests.values()))
    values = _scores(task, first, _responses(first, _empty_answer(first)))
    better = task.higher_is_better()
    per_item = tuple(metric for metric, value in values.items() if _is_number(value) and _is_mean(task, metric))
    if not per_item:
        raise ConfigError(
            "the task has no figure of single documents",
            where=name,
            found=f"{', '.join(values) or 'no metric'}, made from all documents at once",
            expected="a metric whose mean over documents is the figure, such as acc or exact_match",
            do="run lm_eval itself for this task",
        )
    return LmEvalTask(
        name=name,
        metrics=per_item,
        lower_is_better=tuple(metric for metric in per_item if better.get(metric.split(",")[0]) is False),
        chance=_chance(task, requests, per_item),
        facts=_facts(task, requests, left_out=[m for m in values if m not in per_item], seed=seed),
        requests=requests,
        source=task,
    )


def _build(name: str, task: Any, limit: int | None) -> dict[str, tuple[Any, ...]]:
    try:
        task.build_all_requests(limit=limit)
    except Exception as error:  # a template that does not fit its documents raises whatever jinja2 or Python raises
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(
            "lm-eval cannot make the prompts of the task",
            where=name,
            found=f"{type(error).__name__}: {first_line}",
            expected="documents in the test or validation split that fit the task's templates",
            do="correct the task file",
        ) from error
    requests: dict[str, tuple[Any, ...]] = {}
    for request in sorted(task.instances, key=lambda request: (request.doc_id, request.idx)):
        requests[str(request.doc_id)] = (*requests.get(str(request.doc_id), ()), request)
    return requests


def _ask(requests: Sequence[Any]) -> Ask:
    first = requests[0]
    if first.request_type == "generate_until":
        context, options = first.args
        until = options.get("until") or []
        return Generation(
            Prompt(context),
            max_new_tokens=next((int(options[key]) for key in _TOKEN_LIMITS if options.get(key)), _MAX_NEW_TOKENS),
            stop=(until,) if isinstance(until, str) else tuple(until),
            temperature=float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0,
            top_p=float(options.get("top_p") or 1.0),
        )
    if first.request_type == "loglikelihood_rolling":
        return (Continuation(Prompt(""), first.args[0]),)
    return tuple(Continuation(Prompt(request.args[0]), request.args[1]) for request in requests)


def _gold(task: Any, document: Any) -> object:
    return task.doc_to_text(document) if getattr(task, "multiple_input", 0) else task.doc_to_target(document)


def _empty_answer(requests: Sequence[Any]) -> Answer:
    if requests[0].request_type == "generate_until":
        return ""
    n = len(requests)
    return Likelihoods((-1.0,) * n, (1,) * n, (False,) * n)


def _responses(requests: Sequence[Any], answer: Answer) -> list[Any]:
    """What lm-eval's model would have returned for each request."""
    if isinstance(answer, str):
        return [answer]
    if requests[0].request_type == "loglikelihood_rolling":
        return [answer.sums[0]]
    return list(zip(answer.sums, answer.greedy, strict=True))


def _scores(task: Any, requests: Sequence[Any], responses: Sequence[Any]) -> dict[str, Any]:
    answered = [copy.copy(request) for request in requests]
    for request, response in zip(answered, responses, strict=True):
        request.resps, request.filtered_resps = [response], {}
    for ensemble in task._filters:
        ensemble.apply(answered)
    filters = list(answered[0].filtered_resps)
    found = {}
    for key in filters:
        values = task.process_results(answered[0].doc, [request.filtered_resps[key] for request in answered])
        found |= {metric if len(filters) == 1 else f"{metric},{key}": value for metric, value in values.items()}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _is_mean(task: Any, metric: str) -> bool:
    # lm-eval itself takes the mean where a task names no aggregation.
    aggregation: Callable[..., Any] | None = task.aggregation().get(metric.split(",")[0])
    return aggregation is None or getattr(aggregation, "__name__", "") in ("mean", "nanmean")


def _chance(task: Any, requests: Mapping[str, Sequence[Any]], metrics: Sequence[str]) -> dict[str, float]:
    if task.OUTPUT_TYPE != "multiple_choice" or getattr(task, "multiple_target", 0):
        return {}
    sizes = [len(task.doc_to_choice(asked[0].doc)) for asked in requests.values()]
    share = sum(1 / size for size in sizes) / len(sizes)
    return {metric: share for metric in metrics if metric.split(",")[0] in _ACCURACIES}


def _facts(task: Any, requests: Mapping[str, Sequence[Any]], *, left_out: list[str], seed: int) -> dict[str, object]:
    import lm_eval

    digest = hashlib.sha256()
    for asked in requests.values():
        digest.update(json.dumps([request.args for request in asked], sort_keys=True, default=str).encode())
    return {
        "source": "lm-eval",
        "lm_eval": lm_eval.__version__,
        "task_version": str((task.get_config("metadata") or {}).get("version", task.VERSION)),
        "dataset": [task.get_config("dataset_path"), task.get_config("dataset_name")],
        "n_shots": task.get_config("num_fewshot") or 0,
        "few_shot_seed": seed,
        "n_items": len(requests),
        "prompts_sha256": digest.hexdigest(),
        **({"metrics_of_the_whole_set_left_out": left_out} if left_out else {}),
    }
