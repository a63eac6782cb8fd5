"""Functions that tests send to worker processes: at the top of a module that a worker can import."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tclora.errors import ArtifactError, ConfigError, NumericalError
from tclora.execution import report

ERRORS = {"config": ConfigError, "numerical": NumericalError, "artifact": ArtifactError, "value": ValueError}


@dataclass(frozen=True)
class Job:
    """What to do, and where attempts are counted."""

    name: str
    folder: str
    fault: str = ""
    fails: int = 0
    """Attempts that go wrong before one succeeds."""
    value: int = 0


def attempts_of(job: Job) -> int:
    return len(list(Path(job.folder).glob(f"{job.name}.*")))


def square(value: int) -> int:
    return value * value


def place(_: int) -> dict[str, object]:
    """Who does this job, under which environment, and whether torch was there before the environment was set."""
    time.sleep(0.3)  # long enough for the other worker to take the next job
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {"pid": os.getpid(), **{name: os.environ.get(name) for name in names}}


def threads_of_torch(_: int) -> int:
    import torch

    return torch.get_num_threads()


def attempt(job: Job) -> int:
    """Fail as often as the job says, then give its value."""
    (Path(job.folder) / f"{job.name}.{time.monotonic_ns()}").touch()
    if attempts_of(job) <= job.fails:
        if job.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.fault == "exit":
            os._exit(3)
        raise ERRORS[job.fault]("planted fault")
    return job.value


def count_up(total: int) -> int:
    for done in range(1, total + 1):
        report(f"count to {total}", done, total)
    return total


def flood(total: int) -> int:
    """Report under ever new names, so that no throttle holds the messages back."""
    for done in range(total):
        report(f"label {done}", 1, 1)
    return total


def wait_long(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def not_picklable(_: int) -> object:
    return lambda: None


def slowly(value: float) -> float:
    time.sleep(value)
    return value


def count_slowly(total: int) -> int:
    for done in range(1, total + 1):
        report("slow count", done, total)
        time.sleep(0.6)
    time.sleep(1.5)  # the progress board of Ray is looked at every half second
    return total


def working_directory(_: int) -> str:
    return os.getcwd()


class Notes:
    """A watcher that remembers."""

    def __init__(self):
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []

    def step(self, label: str, done: int, total: int) -> None:
        self.steps.append((label, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)
