"""What one program may use before it is stopped.

In: numbers. Out: `Limits`. Refused: anything that is not above zero.
"""

import math
from dataclasses import dataclass, fields

from tclora.errors import ConfigError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds on one program; the jail starts anew for each."""

    cpu_s: int = 10
    """What ends a loop. Unlike the clock it does not depend on what else the machine does, so verdicts repeat."""
    wall_s: float = 60.0
    """What ends a program that waits. From its handing over; the start of the jail is not counted."""
    memory_bytes: int = 512 * 2**20
    """Address space, the interpreter's own part (about 20 MB) included."""
    answer_bytes: int = 2**20
    """The most that one answer may hold as text."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{field.name} of the sandbox's limits is not above zero", found=value)
        if self.memory_bytes < 64 * 2**20:
            raise ConfigError(
                "the sandbox's memory limit is too small for a Python interpreter",
                found=self.memory_bytes,
                expected="at least 67108864 (64 MiB)",
            )
