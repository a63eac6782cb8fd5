"""Our own tasks and log-likelihoods against lm-eval's, item by item, on real benchmark items and a real base.

Two independent sides: lm-eval loads base and PEFT adapter itself and runs its own templates; ours are tclora's tasks,
tokens and shared passes with the adapter hooked on.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from lm_eval_cases import first_rows, made_adapter, own_answers, shared_task_files

from tclora.adapters import read_adapter
from tclora.config import BaseModelConfig
from tclora.evaluation.many import OwnBackend
from tclora.evaluation.tasks import Likelihoods, load_task
from tclora.models import attached, load_base

pytest.importorskip("lm_eval")

TASKS = ["arc_easy", "piqa", "winogrande"]
# Float32 sums over some 20 tokens near 100 nats, rounded differently by other batch shapes: about 1e-5 is seen.
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return made_adapter(tmp_path_factory.mktemp("adapter"))


def our_answers(base, task, n) -> list[Likelihoods]:
    """The engine's answers to the first items, in order."""
    found: dict[int, Likelihoods] = {}
    for done, answers in OwnBackend(base, batch_size=8).answers(task, range(n)):
        found |= dict(zip(done, answers, strict=True))
    return [found[index] for index in range(n)]


def assert_agreement(samples, task, items, answers):
    """Same texts, same log-likelihoods, same greedy flags and the same value of every metric that both have."""
    assert len(samples) == len(items) > 0
    for sample, item, answer in zip(samples, items, answers, strict=True):
        assert [(part.prompt.text, part.text) for part in item.ask] == [tuple(pair) for pair in sample["arguments"]]
        theirs = [response[0] for response in sample["resps"]]
        np.testing.assert_allclose(answer.sums, [value for value, _ in theirs], atol=ROUNDING, rtol=0)
        assert list(answer.greedy) == [greedy for _, greedy in theirs]
        assert int(np.argmax(answer.sums)) == int(np.argmax([value for value, _ in theirs]))
        scores = task.score(item, answer)
        assert {key: scores[key] for key in sample["metrics"]} == {key: sample[key] for key in sample["metrics"]}


def compare(shared, folder, name, n, *, adapter=None, base_path=None):
    """Check the first items; returns lm-eval's samples, our task, and our answers without the adapter."""
    # A few rows more, so that both must stop at the same.
    data = first_rows(folder / "data", shared / "data", name, n + 4)
    folder = shared_task_files(folder / "tasks", data)
    peft = None if adapter is None else str(adapter)
    samples = own_answers(folder, [name], peft=peft, base=base_path, limit=n)[name]
    base = load_base(BaseModelConfig(path="bundled" if base_path is None else str(base_path)))
    task = load_task(name, data=data)
    with nullcontext() if adapter is None else attached(base, read_adapter(adapter)):
        assert_agreement(samples, task, task.items()[:n], our_answers(base, task, n))
    return samples, task, our_answers(base, task, n)


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", TASKS)
def test_a_few_items_agree_and_another_adapter_does_not(shared, tmp_path, adapter, name):
    samples, task, without = compare(shared, tmp_path, name, 4, adapter=adapter)
    with pytest.raises(AssertionError):
        assert_agreement(samples, task, task.items()[:4], without)


@pytest.mark.slow
@pytest.mark.needs_shared
@pytest.mark.parametrize("name", TASKS)
def test_twenty_items_agree(shared, tmp_path, adapter, name):
    compare(shared, tmp_path, name, 20, adapter=adapter)


@pytest.mark.slow
@pytest.mark.needs_shared
@pytest.mark.parametrize("name", TASKS)
def test_twenty_items_agree_where_most_tokens_span_the_boundary(shared, tmp_path, name):
    compare(shared, tmp_path, name, 20, base_path=shared / "models" / "tinystories-656k")
