"""The servers whose rules are known, and what one of them says of an adapter.

A rule file registers one function: facts and a rank limit in, findings out. `RankLimit` is what the server's own flag
takes. Refused: a server that is not known, and a rank that its flag does not take.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tclora.adapters.serving.facts import ServingFacts
from tclora.adapters.serving.findings import Finding
from tclora.errors import ConfigError
from tclora.registry import Registry

__all__ = ["SERVERS", "RankLimit", "Rules", "check_limit", "over_rank", "rank_limit", "serving_findings"]

Rules = Callable[[ServingFacts, int | None], Iterable[Finding]]

SERVERS: Registry[Rules] = Registry("server")


@dataclass(frozen=True)
class RankLimit:
    """A server's flag for the largest rank, its default, and the values that it takes (any if empty)."""

    flag: str
    default: int | None = None
    allowed: tuple[int, ...] = ()

    def smallest_for(self, rank: int) -> int | None:
        """The smallest value that holds `rank`; None if there is none."""
        return rank if not self.allowed else next((value for value in self.allowed if value >= rank), None)


def rank_limit(server: str) -> RankLimit | None:
    """The rank limit of a server; None if it has none."""
    limit = SERVERS.entry(server).facts.get("limit")
    return limit if isinstance(limit, RankLimit) else None


def check_limit(server: str, max_rank: int | None) -> None:
    """Refuse a rank limit that the server's flag does not take.

    Raises:
        UnknownNameError: there is no such server.
        ConfigError: names the flag and what it takes.
    """
    limit = rank_limit(server)
    if max_rank is None or limit is None or not limit.allowed or max_rank in limit.allowed:
        return
    raise ConfigError(
        f"{server} does not take this rank limit",
        where=limit.flag,
        found=max_rank,
        expected="one of " + ", ".join(map(str, limit.allowed)),
        do=f"give {limit.smallest_for(max_rank) or limit.allowed[-1]}",
    )


def serving_findings(facts: ServingFacts, server: str, *, max_rank: int | None = None) -> tuple[Finding, ...]:
    """Everything that `server` would refuse or ignore in an adapter, in the order of its rules.

    Args:
        max_rank: the server's own setting; its default without it.

    Raises:
        UnknownNameError: there is no such server.
        ConfigError: the server's flag does not take `max_rank`.
    """
    check_limit(server, max_rank)
    name, findings = SERVERS.entry(server).name, SERVERS[server](facts, max_rank)
    return tuple(replace(finding, target=name, where=finding.where or str(facts.folder)) for finding in findings)


def over_rank(facts: ServingFacts, server: str, max_rank: int | None) -> list[Finding]:
    """The finding of a rank above the server's limit, if it is."""
    limit = rank_limit(server)
    top = max_rank if max_rank is not None or limit is None else limit.default
    if limit is None or top is None or facts.largest_rank <= top:
        return []
    needed = limit.smallest_for(facts.largest_rank)
    start = f"start the server with {limit.flag} {needed}, or " if needed else ""
    return [
        Finding(
            "refuse",
            f"the rank is above {limit.flag}",
            found=f"rank {facts.largest_rank}",
            expected=f"at most {top}" + ("" if max_rank is not None else ", the default"),
            do=f"{start}write a copy cut to rank {top}: tclora check --fix --max-rank {top} -o OUT",
        )
    ]
