"""The door: a sandbox that runs programs and says what became of them.

In: the text of a program, with a test where there is one. Out: `Outcome`. Refused: to run where no jail works, unless
`unsafe_no_sandbox` was said; a test that is itself at fault.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tclora.sandbox.backends import levels_of, pick_level
from tclora.sandbox.interpreter import Interpreter, find_interpreter
from tclora.sandbox.jail import Jail, open_jail
from tclora.sandbox.level import Level
from tclora.sandbox.limits import Limits
from tclora.sandbox.outcome import Outcome
from tclora.sandbox.verdict import check_asserts, check_function, returned_value

__all__ = ["Sandbox", "available"]


def available(python: Path | None = None) -> tuple[Level, ...]:
    """Try every back end here and now, best first; each has started a jail and been attacked from inside.

    The answer is kept for the life of the process.

    Raises:
        ConfigError: `python` is no interpreter that the jail can use.
    """
    return levels_of(find_interpreter(python))


@dataclass(frozen=True)
class Sandbox:
    """Runs each program in a fresh jailed process; safe to share between threads.

    Args:
        backend: `auto` takes the best that works; `bubblewrap` and `landlock` ask for one; `none` needs
            `unsafe_no_sandbox`.
        python: the interpreter of the jail; this one's base interpreter if not given. Programs see its standard
            library and no installed package.
        unsafe_no_sandbox: run programs with your own rights where no jail works.

    Raises:
        ConfigError: no back end works here, or not the one that was asked for.
    """

    limits: Limits = field(default_factory=Limits)
    backend: str = "auto"
    python: Path | None = None
    unsafe_no_sandbox: bool = False
    level: Level = field(init=False)
    _interpreter: Interpreter = field(init=False, repr=False)

    def __post_init__(self):
        interpreter = find_interpreter(self.python)
        level = pick_level(interpreter, self.backend, unsafe_no_sandbox=self.unsafe_no_sandbox)
        object.__setattr__(self, "_interpreter", interpreter)
        object.__setattr__(self, "level", level)

    @property
    def facts(self) -> dict[str, object]:
        """What a result file records: the level and the limits."""
        limits = {
            "wall_s": self.limits.wall_s,
            "cpu_s": self.limits.cpu_s,
            "memory_bytes": self.limits.memory_bytes,
        }
        return {**self.level.facts, "python": self._interpreter.version, **limits}

    def run_solution(self, program: str, *, function: str = "solution", args: tuple = ()) -> Outcome:
        """Run a program, call its `function`, and bring back what it returned as plain data (PAL style).

        Source: Gao et al. 2022, arXiv 2211.10435.
        """
        with self._jail() as jail:
            return returned_value(jail, program, function, args)

    def run_humaneval(self, program: str, test: str, entry_point: str, *, prompt: str = "") -> Outcome:
        """Run `check(candidate)` of `test` against the program's `entry_point`.

        The test runs in this process; only `candidate` runs in the jail. Pass the benchmark's `prompt`: three tests
        call a helper that stands in it, and taking that helper from `program` would let the program forge it.

        Raises:
            DataError: the test is at fault: it does not compile, defines no `check`, or uses a name nobody defines.

        Source: Chen et al. 2021, arXiv 2107.03374; https://github.com/openai/human-eval.
        """
        with self._jail() as jail:
            return check_function(jail, program, entry_point, test=test, prompt=prompt)

    def run_mbpp(
        self, program: str, asserts: Sequence[str], *, setup: str = "", function: str | None = None
    ) -> Outcome:
        """Run `asserts`, in this process, against the functions of the program, in the jail.

        Which names are the program's follows from the asserts alone: those that Python does not know; or else the
        one built-in function that they call (MBPP asks for a `sum`). `function` says it where that is not enough.

        Raises:
            DataError: an assert is at fault: it does not compile, or it does not show which function is tested.

        Source: Austin et al. 2021, arXiv 2108.07732.
        """
        with self._jail() as jail:
            return check_asserts(jail, program, tuple(asserts), setup=setup, function=function)

    def _jail(self) -> AbstractContextManager[Jail]:
        return open_jail(self._interpreter, self.level, self.limits)
