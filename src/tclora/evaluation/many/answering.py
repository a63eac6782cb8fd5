"""The work itself: every task asked of every entrant on one base load, each adapter attached at most once.

In: entrants (adapter folders, or none for the bare base), tasks and a back end. Out: every answer. What the cache holds
is not asked again, and two items that ask the same are asked once. Refused: what adapters and back ends refuse.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tclora.adapters import Adapter, read_adapter
from tclora.evaluation.cache import adapter_digest, base_digest
from tclora.evaluation.many.backend import Backend
from tclora.evaluation.many.store import AnswerStore, store_name
from tclora.evaluation.tasks.task import Answer, Task
from tclora.models import Base, attached

__all__ = ["Entrant", "EntrantAnswers", "answer_tasks"]

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entrant:
    """A row of the results: an adapter, or the base alone where `source` is None."""

    name: str
    source: str | None = None
    """A PEFT folder or Hub id."""


@dataclass(frozen=True)
class EntrantAnswers:
    """One entrant's answers by task, in the order of the items; and what the adapter is."""

    entrant: Entrant
    answers: Mapping[str, list[Answer]]
    digest: str | None
    rank: int
    """The largest rank of its modules; 0 for the base."""
    n_reused: int
    """Items whose answers lay in the cache."""


def answer_tasks(
    base: Base,
    entrants: Sequence[Entrant],
    tasks: Sequence[Task],
    backend: Backend,
    *,
    cache: Path,
    on_progress: OnProgress | None = None,
) -> list[EntrantAnswers]:
    """Ask every task of every entrant.

    Args:
        cache: a folder for answers; may be shared by evaluations.
        on_progress: called with the tokens done and the tokens in all, those in the cache included.

    Raises:
        AdapterError: a folder is no adapter, or does not belong to the base.
        NumericalError: a log-likelihood is not finite.
    """
    digest = base_digest(base)
    total = len(entrants) * sum(sum(backend.costs(task)) for task in tasks)
    # What is on disk is told before any work, so that it does not pass for speed.
    done = sum(_kept_cost(entrant, digest, tasks, backend, cache) for entrant in entrants)

    def tell(cost: int) -> None:
        nonlocal done
        done += cost
        if on_progress is not None:
            on_progress(done, total)

    tell(0)
    found = []
    for entrant in entrants:
        adapter, own, store = _opened(entrant, digest, backend, cache)
        try:
            n_reused = _ask(base, adapter, tasks, backend, store, tell)
        finally:
            store.close()
        answers = {task.name: [store[key] for key in backend.keys(task)] for task in tasks}
        rank = 0 if adapter is None else max(shape.r for shape in adapter.shapes.values())
        found.append(EntrantAnswers(entrant, answers, own, rank, n_reused))
    return found


def _opened(
    entrant: Entrant, digest: str, backend: Backend, cache: Path
) -> tuple[Adapter | None, str | None, AnswerStore]:
    adapter = None if entrant.source is None else read_adapter(entrant.source)
    own = None if adapter is None else adapter_digest(adapter)
    return adapter, own, AnswerStore(cache / store_name(digest, own, backend.name))


def _kept_cost(entrant: Entrant, digest: str, tasks: Sequence[Task], backend: Backend, cache: Path) -> int:
    store = _opened(entrant, digest, backend, cache)[2]
    pairs = ((key, cost) for task in tasks for key, cost in zip(backend.keys(task), backend.costs(task), strict=True))
    return sum(cost for key, cost in pairs if key in store)


def _ask(
    base: Base,
    adapter: Adapter | None,
    tasks: Sequence[Task],
    backend: Backend,
    store: AnswerStore,
    tell: Callable[[int], None],
) -> int:
    """Fill the store with what it lacks.

    Returns:
        the number of items that it had.
    """
    missing = {task.name: [i for i, key in enumerate(backend.keys(task)) if key not in store] for task in tasks}
    n_reused = sum(len(backend.keys(task)) - len(missing[task.name]) for task in tasks)
    # Attaching reads the adapter's tensors, so it is left out where everything is on disk.
    idle = adapter is None or not any(missing.values())
    with nullcontext(base) if idle or adapter is None else attached(base, adapter):
        for task in tasks:
            _ask_task(task, missing[task.name], backend, store, tell)
    return n_reused


def _ask_task(
    task: Task, missing: Sequence[int], backend: Backend, store: AnswerStore, tell: Callable[[int], None]
) -> None:
    keys, costs = backend.keys(task), backend.costs(task)
    # Of items that ask the same, only the first is asked; another task may have asked it meanwhile.
    firsts = {keys[index]: index for index in reversed(missing) if keys[index] not in store}
    wanted = sorted(firsts.values())
    tell(sum(costs[index] for index in missing) - sum(costs[index] for index in wanted))
    for indices, answers in backend.answers(task, wanted) if wanted else ():
        store.add((keys[index], answer) for index, answer in zip(indices, answers, strict=True))
        tell(sum(costs[index] for index in indices))
