"""What became of one program.

In: nothing. Out: `Outcome`, and `Opaque`, which stands for a value that is not plain data.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Opaque", "Outcome", "Status"]

Status = Literal["passed", "failed", "invalid_code", "execution_error", "timeout", "memory"]


@dataclass(frozen=True)
class Outcome:
    """The verdict on one program.

    passed: every test held; or, where there is no test, the function returned.
    failed: a test did not hold.
    invalid_code: the text does not compile, or does not define the function that is asked for.
    execution_error: it raised, ended its process, or answered with what is no answer.
    timeout: the wall clock or the CPU limit. memory: the memory limit.
    """

    status: Status
    value: object = None
    """What the function returned, as plain data; only where there is no test."""
    detail: str = ""
    """One line for people: the exception, or the test that did not hold."""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True, eq=False)
class Opaque:
    """A value that cannot leave the jail: only the name of its type and its truth did. Equals nothing but itself."""

    type_name: str
    truth: bool

    def __bool__(self) -> bool:
        return self.truth
