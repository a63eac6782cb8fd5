"""What is in adapter folders, what would be refused and why, whether they belong together, and which servers take them.

In: folders or Hub ids, a base if there is one, servers if asked for. Out: a `CheckResult` that lists refusals instead
of raising them. Adapters are compared with one another only where no server is named: served adapters need not merge.
Refused: a base that cannot be read, servers that are not known, rank limits that a server's flag does not take.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tclora.adapters import (
    SERVERS,
    Adapter,
    AdapterSummary,
    BaseShapes,
    Finding,
    base_shapes,
    check_against_base,
    check_limit,
    check_mergeable,
    check_same_base,
    inspect_adapter,
    read_adapter,
    serving_facts,
    serving_findings,
    verdict_of,
)
from tclora.errors import AdapterError, ConfigError

__all__ = ["CheckResult", "TargetReport", "check_folders", "named_servers"]

ALL_SERVERS = "all"


@dataclass(frozen=True)
class TargetReport:
    """What one server would do with one adapter; `unreadable` where the files could not be looked at."""

    adapter: str
    target: str
    verdict: Literal["loads", "refuses", "ignores", "unreadable"]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class CheckResult:
    """One summary per adapter; refusals that concern them together; warnings; what the servers would do."""

    summaries: tuple[AdapterSummary, ...]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    targets: tuple[TargetReport, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing would be refused by this library."""
        return not self.refusals and not any(summary.refusals for summary in self.summaries)

    @property
    def served(self) -> bool:
        """Every server that was asked about would load every adapter as it is."""
        return all(report.verdict == "loads" for report in self.targets)


def check_folders(
    sources: Sequence[str], *, base: str | None = None, targets: Sequence[str] = (), max_rank: int | None = None
) -> CheckResult:
    """Inspect adapters one by one, then together or against servers. Refusals are collected, not raised.

    Args:
        targets: names of servers, or `all`.
        max_rank: the servers' own limit on the rank; their default without it.

    Raises:
        TcLoraError: the base cannot be read, or a server or its rank limit is not known.
    """
    servers = named_servers(targets, max_rank)
    shapes = base_shapes(base) if base is not None else None
    summaries = tuple(inspect_adapter(source) for source in sources)
    sound = [read_adapter(source) for source, summary in zip(sources, summaries, strict=True) if not summary.refusals]
    refusals, warnings = _against_base(sound, shapes)
    if sound and not servers:
        refusals += _refusals(check_mergeable, sound)
        warnings += check_same_base(sound) if len(sound) > 1 else ()
    reports = [
        report
        for source, summary in zip(sources, summaries, strict=True)
        for report in _reports(source, summary.name, servers, max_rank, shapes)
    ]
    return CheckResult(summaries, tuple(refusals), tuple(warnings), tuple(reports))


def named_servers(targets: Sequence[str], max_rank: int | None = None) -> tuple[str, ...]:
    """The servers asked for, each once, in the order given; `all` stands for every one that is known.

    Raises:
        UnknownNameError: there is no such server; suggests near names.
        ConfigError: a rank limit without a server, below 1, or one that a server's flag does not take.
    """
    names = [name for target in targets for name in (SERVERS if target.strip().lower() == ALL_SERVERS else [target])]
    if max_rank is not None and (max_rank < 1 or not names):
        raise ConfigError(
            "a rank limit is of a server, and 1 or more",
            where="--max-rank",
            found=f"{max_rank}" + ("" if names else " without --target"),
            do="name the server with --target",
        )
    servers = tuple(dict.fromkeys(SERVERS.entry(name).name for name in names))
    for server in servers:
        check_limit(server, max_rank)
    return servers


def _reports(
    source: str, name: str, servers: Sequence[str], max_rank: int | None, base: BaseShapes | None
) -> list[TargetReport]:
    if not servers:
        return []
    try:
        facts = serving_facts(source, base=base)
    except AdapterError:
        # The reason stands among the summary's refusals.
        return [TargetReport(name, server, "unreadable", ()) for server in servers]
    found = {server: serving_findings(facts, server, max_rank=max_rank) for server in servers}
    return [TargetReport(name, server, verdict_of(findings), findings) for server, findings in found.items()]


def _against_base(adapters: list[Adapter], shapes: BaseShapes | None) -> tuple[list[str], list[str]]:
    refusals: list[str] = []
    warnings: list[str] = []
    if shapes is None:
        return refusals, warnings
    for adapter in adapters:
        try:
            warnings += check_against_base(adapter, shapes)
        except AdapterError as error:
            refusals.append(str(error))
    return refusals, warnings


def _refusals(check: Callable[..., object], *arguments: object) -> list[str]:
    try:
        check(*arguments)
    except AdapterError as error:
        return [str(error)]
    return []
