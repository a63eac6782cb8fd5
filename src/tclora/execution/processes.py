"""An executor of worker processes on this machine: one for each GPU or group of cores.

In: functions that can be imported and jobs that can be pickled. Out: their results. Workers are started afresh (spawn),
so that each sees its own GPU and thread count before it loads torch; they stay between jobs, and keep a loaded base. A
worker that dies costs its job one attempt; a worker whose job raised something unforeseen is replaced, since a broken
CUDA context breaks every job after it. Refused: jobs that cannot be pickled.
"""

import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from tclora.execution.attempts import Failure, Retries, unsendable
from tclora.execution.devices import WorkerPlan
from tclora.execution.dispatch import Event, Failed, Finished, run_jobs
from tclora.execution.executor import in_order
from tclora.execution.watch import LogWatcher, Watcher
from tclora.execution.worker import READY, work

__all__ = ["ProcessExecutor"]

_LAST_WORDS_S = 5.0
"""Seconds that a worker may take to end before it is killed."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class ProcessExecutor:
    """Runs jobs in worker processes of this machine. Workers start with the first job and are stopped by `close`."""

    def __init__(self, plan: WorkerPlan, retries: Retries | None = None):
        self._backend = _Processes(plan)
        self._retries = retries or Retries()

    @property
    def workers(self) -> int:
        """Jobs that run at the same time."""
        return self._backend.slots

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[Result]:
        """Yield results in the order of `jobs`, each as soon as it and its predecessors are done."""
        return in_order(self.as_completed(function, jobs, watcher=watcher))

    def as_completed(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Yield each job's index and result as it is done."""
        return run_jobs(self._backend, function, jobs, retries=self._retries, watcher=watcher or LogWatcher())

    def close(self) -> None:
        """Stop the workers at once; the next job starts new ones."""
        self._backend.cancel()

    def __enter__(self) -> "ProcessExecutor":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class _Worker:
    """One worker process, seen from the parent."""

    def __init__(self, place: int, environment: dict[str, str]):
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.ticket: int | None = None
        self.ready = False
        ours, theirs = context.Pipe()
        self.connection: Connection = ours
        # Daemons end with this process when it ends in good order; for other ends they watch it themselves.
        self.process = context.Process(target=work, args=(theirs, environment), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        """End the process: it may clean up after itself, but not for long."""
        self.process.terminate()
        self.process.join(_LAST_WORDS_S)
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Processes:
    """Workers by place; each place has its environment."""

    def __init__(self, plan: WorkerPlan):
        self._environments = plan.environments
        self._workers: dict[int, _Worker] = {}
        # A worker can die at the very moment a job is handed to it; that is heard of like any other death.
        self._unheard: list[Event] = []

    @property
    def slots(self) -> int:
        return len(self._environments)

    def submit(self, ticket: int, function: Callable[[Any], Any], job: Any) -> None:
        content = _pickled(function, job)
        worker = self._idle()
        try:
            worker.connection.send((ticket, content))
            worker.ticket = ticket
        except OSError:
            worker.ticket = ticket
            self._unheard += self._bury(worker)

    def events(self, timeout_s: float) -> list[Event]:
        events, self._unheard = self._unheard, []
        workers = list(self._workers.values())
        signs = [sign for worker in workers for sign in (worker.connection, worker.process.sentinel)]
        if not signs:
            # Nothing runs: what is waited for is a pause between two attempts.
            time.sleep(0.0 if events else timeout_s)
            return events
        wait(signs, 0.0 if events else timeout_s)
        for worker in workers:
            events += self._heard(worker)
        return events

    def cancel(self) -> None:
        # All are told before the first is waited for.
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.stop()
        self._workers, self._unheard = {}, []

    def _idle(self) -> _Worker:
        for worker in self._workers.values():
            if worker.ticket is None and worker.process.is_alive():
                return worker
        for place, environment in enumerate(self._environments):
            old = self._workers.get(place)
            if old is None or old.ticket is None:
                if old is not None:
                    old.stop()
                self._workers[place] = _Worker(place, dict(environment))
                return self._workers[place]
        raise AssertionError("submit was called while every place was taken")

    def _heard(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        # Looked at first: what a dead worker said before its end is still in the pipe.
        alive = worker.process.is_alive()
        try:
            while worker.connection.poll():
                events += self._understood(worker, worker.connection.recv())
                if worker.place not in self._workers:
                    return events
        except (EOFError, OSError):
            alive = False
        if not alive:
            events += self._bury(worker)
        return events

    def _understood(self, worker: _Worker, message: Any) -> list[Event]:
        if message == READY:
            worker.ready = True
            return []
        if isinstance(message, Finished | Failed):
            worker.ticket = None
        if isinstance(message, Failed) and message.failure.error is None:
            self._remove(worker)
        return [message]

    def _bury(self, worker: _Worker) -> list[Event]:
        """Remove a dead worker; the job it had is reported as failed."""
        worker.process.join(_LAST_WORDS_S)
        reason = _cause(worker.process.exitcode, worker.ready)
        self._remove(worker)
        if worker.ticket is None:
            return []
        return [Failed(worker.ticket, Failure(reason, lost=True))]

    def _remove(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.pop(worker.place, None)


def _pickled(function: Callable[[Any], Any], job: Any) -> bytes:
    try:
        return pickle.dumps((function, job))
    except Exception as error:  # pickle raises PicklingError, AttributeError, TypeError and whatever __reduce__ does
        raise unsendable(function, error) from error


def _cause(exit_code: int | None, ready: bool) -> str:
    if exit_code is None:
        return "its worker no longer answered"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (often the system, short of memory)" if name == "SIGKILL" else ""
        return f"its worker was killed by {name}{hint}"
    if not ready:
        return (
            f"its worker could not start (exit status {exit_code}); a script that uses worker processes must do its "
            "work under `if __name__ == '__main__':`"
        )
    return f"its worker ended with exit status {exit_code}"
