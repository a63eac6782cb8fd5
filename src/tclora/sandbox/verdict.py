"""The split checker: the tests are run here, the program answers from the jail.

In: a jail, a program, a test. Out: `Outcome`. Refused: a test that is at fault itself (`DataError`).

A program that holds its own tests, or runs beside them, can forge a verdict: with an object that equals everything, by
ending the process with status 0, by reaching into the list of results. Here it can only return a value, and the value
is compared by this process.

Source: the forgeries of docs/sandbox.md; openai/human-eval issue 67 is one.
"""

from collections.abc import Callable
from typing import Any

from tclora.errors import DataError
from tclora.sandbox.candidate import Candidate
from tclora.sandbox.jail import Jail, Stopped
from tclora.sandbox.names import functions_under_test, names_from_outside
from tclora.sandbox.outcome import Opaque, Outcome
from tclora.sandbox.trusted import compiled, new_namespace, quoted_line, run_until

__all__ = ["check_asserts", "check_function", "returned_value"]


def returned_value(jail: Jail, program: str, function: str, args: tuple) -> Outcome:
    """Load the program and call one function of it."""
    candidate = Candidate(jail)
    found: list[object] = []

    def test() -> None:
        candidate.load(program, (function,))
        found.append(candidate.function(function)(*args))

    outcome = _judged(candidate, test)
    if not outcome.passed:
        return outcome
    if isinstance(found[0], Opaque):
        return Outcome("execution_error", detail=f"it returned a {found[0].type_name}, which is no plain data")
    return Outcome("passed", value=found[0])


def check_function(jail: Jail, program: str, entry_point: str, *, test: str, prompt: str = "") -> Outcome:
    """Run HumanEval's `check` of `test` against the program's `entry_point`."""
    code = compiled(test, "a test")
    candidate = Candidate(jail)
    namespace = new_namespace({})
    _run_helpers(prompt, namespace)
    unknown = [name for name in names_from_outside(test) if name not in (*namespace, entry_point)]
    if unknown:
        raise DataError(
            "a test uses a name that it does not define",
            where=entry_point,
            found=", ".join(unknown),
            do="pass the benchmark's prompt, where its helper functions stand: run_humaneval(..., prompt=...)",
        )

    def run() -> None:
        candidate.load(program, (entry_point,))
        exec(code, namespace)
        # A few tests call the function by its name as well; what stands in the prompt is a stub of it.
        namespace[entry_point] = candidate.function(entry_point)
        check: Any = namespace.get("check")
        if not callable(check):
            raise DataError("a test defines no function check", where=entry_point, found=test[:200])
        check(candidate.function(entry_point))

    return _judged(candidate, run, test)


def check_asserts(
    jail: Jail, program: str, asserts: tuple[str, ...], *, setup: str = "", function: str | None = None
) -> Outcome:
    """Run MBPP's `asserts`, after `setup`, against the program's functions."""
    if not asserts:
        raise DataError("there is no assert to check the program with", where=function)
    together = "\n".join((setup, *asserts))
    code = compiled(together, "the asserts")
    if function is None:
        names = functions_under_test(together)
    else:
        names = tuple(sorted({function, *names_from_outside(together)}))
    candidate = Candidate(jail)
    namespace = new_namespace({name: candidate.function(name) for name in names})

    def run() -> None:
        candidate.load(program, names)
        exec(code, namespace)

    return _judged(candidate, run, together)


def _judged(candidate: Candidate, test: Callable[[], None], text: str = "") -> Outcome:
    """Run the test; every way that this can end, as an outcome. `text` is the test's own, to quote from."""
    try:
        run_until(test, candidate.deadline)
        found = Outcome("passed")
    except Stopped as stopped:
        found = stopped.outcome
    except DataError:
        raise
    except Exception as error:
        # A test that trips over a value (the length of None, say) has not held; what the program raised is its own.
        if error is candidate.raised:
            found = Outcome("execution_error", detail=candidate.last_words)
        else:
            found = Outcome("failed", detail=_shown(error, quoted_line(error, text)))
    # What ended the program ends the matter, even if a test's `except` swallowed it.
    return candidate.stopped or found


def _run_helpers(prompt: str, namespace: dict[str, object]) -> None:
    try:
        exec(compiled(prompt, "a prompt", file="<prompt>"), namespace)
    except DataError:
        raise
    except Exception as error:
        raise DataError("a prompt cannot be run to define its helpers", found=_shown(error)) from None


def _shown(error: BaseException, quoted: str = "") -> str:
    try:
        message = str(error)
    except ValueError:  # a number of more digits than Python writes
        message = ""
    text = ": ".join(part for part in (type(error).__name__, message, quoted) if part)
    return "".join(c if c.isprintable() else " " for c in text[:300])
