"""An executor on a Ray cluster: Ray chooses the machines, this file asks and listens.

In: functions that every node can import and jobs that can be pickled. Out: their results. Nodes share the run's folder,
so a job lost with its node goes on elsewhere from what it left there. Ray's own retries are off: the reason of each
loss is told to the user, and one rule decides for all executors.
"""

import pickle
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from tclora.execution.attempts import Failure, Retries, failure_of, unsendable
from tclora.execution.contract import Contract
from tclora.execution.dispatch import Event, Failed, Finished, Told, run_jobs
from tclora.execution.executor import in_order
from tclora.execution.ray_cluster import RayCluster, Request, Resources, connect, import_ray, room_on
from tclora.execution.watch import LogWatcher, Watcher, telling
from tclora.execution.worker import Throttle

__all__ = ["RayExecutor"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_NEWS_S = 0.5
"""Seconds between two looks at the progress board."""
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_QUIET_S = 60.0
"""Seconds without news after which the cluster is looked at."""


class RayExecutor:
    """Runs jobs on a Ray cluster; connects with the first job.

    Every node must see the run's folder and have the same versions installed; this is checked when connecting, and
    again by each job, for nodes that join later.
    """

    def __init__(self, request: Request, retries: Retries | None = None):
        self._request = request
        self._retries = retries or Retries()
        self._cluster: RayCluster | None = None

    @property
    def workers(self) -> int:
        """Jobs that run at the same time."""
        return self._connected().slots

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[Result]:
        """Yield results in the order of `jobs`, each as soon as it and its predecessors are done."""
        return in_order(self.as_completed(function, jobs, watcher=watcher))

    def as_completed(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Yield each job's index and result as it is done."""
        told = watcher or LogWatcher()
        backend = _Tasks(self._connected(), self._request.threads, told)
        return run_jobs(backend, function, jobs, retries=self._retries, watcher=told)

    def close(self) -> None:
        """Leave the cluster; the next job connects again."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _connected(self) -> RayCluster:
        if self._cluster is None:
            self._cluster = connect(self._request)
        return self._cluster


class _Tasks:
    """Attempts as Ray tasks."""

    def __init__(self, cluster: RayCluster, threads: int | None, watcher: Watcher):
        self._ray = import_ray()
        self._cluster, self._threads, self._watcher = cluster, threads, watcher
        self._running: dict[Any, int] = {}
        self._quiet_since = time.monotonic()
        self._board = _Board(self._ray)
        self._remote = self._ray.remote(max_retries=0)(_run_here)

    @property
    def slots(self) -> int:
        return self._cluster.slots

    def submit(self, ticket: int, function: Callable[[Any], Any], job: Any) -> None:
        needs: Resources = self._cluster.resources
        task = self._remote.options(num_cpus=needs.cpus, num_gpus=needs.gpus)
        try:
            ref = task.remote(self._cluster.contract, self._board.actor, self._threads, ticket, function, job)
        except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
            raise unsendable(function, error) from error
        self._running[ref] = ticket

    def events(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        if self._running:
            done, _ = self._ray.wait(list(self._running), timeout=min(timeout_s, _NEWS_S))
            events += [self._outcome(ref) for ref in done]
        else:
            time.sleep(timeout_s)
        events = [*self._board.news(), *events]
        self._warn_if_stuck(bool(events))
        return events

    def cancel(self) -> None:
        for ref in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=True)
        self._running = {}

    def _warn_if_stuck(self, has_news: bool) -> None:
        """Say so where the nodes that are left have no room for a job: Ray itself would wait without a word."""
        now = time.monotonic()
        if has_news or now - self._quiet_since < _QUIET_S:
            self._quiet_since = now if has_news else self._quiet_since
            return
        self._quiet_since = now
        if not room_on(self._ray, self._cluster.resources):
            self._watcher.note("no node of the Ray cluster has room for a job any more; waiting for one to join")

    def _outcome(self, ref: Any) -> Event:
        ticket = self._running.pop(ref)
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return Failed(ticket, _ended(error, isinstance(error, self._ray.exceptions.RayTaskError)))


class _Board:
    """The latest progress of every label, kept by a small actor; without the actor there is no progress, no more."""

    def __init__(self, ray: Any):
        self._ray, self._asked, self._next = ray, None, 0.0
        self.actor: Any = None
        with suppress(ray.exceptions.RayError, ValueError):
            self.actor = ray.remote(num_cpus=0)(_Notes).remote()

    def news(self) -> list[Told]:
        """What was told since the last look; never waits."""
        if self.actor is None:
            return []
        try:
            if self._asked is None and time.monotonic() >= self._next:
                self._asked, self._next = self.actor.take.remote(), time.monotonic() + _NEWS_S
            if self._asked is None or not self._ray.wait([self._asked], timeout=0)[0]:
                return []
            asked, self._asked = self._asked, None
            return [Told(*entry) for entry in self._ray.get(asked)]
        except self._ray.exceptions.RayError:
            self.actor = None
            return []


class _Notes:
    """The actor's state: per label the latest figures, until they are taken."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, int]] = {}

    def put(self, label: str, done: int, total: int) -> None:
        self._latest[label] = (done, total)

    def take(self) -> list[tuple[str, int, int]]:
        latest, self._latest = self._latest, {}
        return [(label, done, total) for label, (done, total) in latest.items()]


def _ended(error: Exception, was_running: bool) -> Failure:
    """What became of a task without an answer. It lets no error of a job through, so it was lost or never read."""
    text = _COLORS.sub("", str(error)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if was_running:
        return Failure(f"it could not be started on its node: {lines[-1][:300]}", text[-2000:])
    return Failure(f"its worker or node was lost: {lines[0][:300]}", text[-2000:], lost=True)


def _run_here(
    contract: Contract, board: Any, threads: int | None, ticket: int, function: Callable[[Any], Any], job: Any
) -> Event:
    """One attempt, on the node that Ray chose."""
    throttle = Throttle(_NEWS_S)

    def tell(label: str, done: int, total: int) -> None:
        if board is not None and throttle.lets_pass(label, done, total):
            with suppress(Exception):
                board.put.remote(label, done, total)

    try:
        contract.enter()
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        with telling(tell):
            return Finished(ticket, function(job))
    except Exception as error:
        return Failed(ticket, failure_of(error))
