"""What a server would do to an adapter, as one value per problem.

A `Finding` says what happens (`severity`), what, where, found against expected, and what to do, like every error here.
`refuse`: the server does not load the adapter. `ignore`: it loads it and serves another delta without saying so.
`warn`: it depends on a version or a flag, or changes nothing. Nothing is refused in this file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["FIX", "Finding", "Severity", "Verdict", "some", "verdict_of"]

Severity = Literal["refuse", "ignore", "warn"]
Verdict = Literal["loads", "refuses", "ignores"]

FIX = "write a copy that loads: tclora check --fix -o OUT"
_LISTED = 4
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Finding:
    """One thing that a server refuses, ignores in silence, or may stumble over.

    `fixable`: a copy written by this library's writer does not have it. `target` and `where` (the adapter's folder) are
    filled in by `serving_findings`; a rule leaves them empty.
    """

    severity: Severity
    what: str
    found: str
    expected: str
    do: str = FIX
    fixable: bool = True
    target: str = ""
    where: str = ""

    def beyond_a_copy(self, do: str) -> "Finding":
        """The same finding where writing the adapter again does not help."""
        return replace(self, do=do, fixable=False)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """The worst that findings of one server say: `refuses`, else `ignores`, else `loads`."""
    severities = {finding.severity for finding in findings}
    if "refuse" in severities:
        return "refuses"
    return "ignores" if "ignore" in severities else "loads"


def some(names: Iterable[object]) -> str:
    """The first few names, cut to a readable length, and how many more there are."""
    listed = [str(name)[:_SHOWN_CHARACTERS] for name in names]
    text = ", ".join(listed[:_LISTED])
    return text if len(listed) <= _LISTED else f"{text} and {len(listed) - _LISTED} more"
