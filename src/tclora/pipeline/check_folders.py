"""What is in adapter folders, what would be refused and why, and whether they belong together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tclora.adapters import (
    Adapter,
    AdapterSummary,
    base_shapes,
    check_against_base,
    check_mergeable,
    check_same_base,
    inspect_adapter,
    read_adapter,
)
from tclora.errors import AdapterError

__all__ = ["CheckResult", "check_folders"]


@dataclass(frozen=True)
class CheckResult:
    """One summary per adapter; refusals that concern them together; warnings."""

    summaries: tuple[AdapterSummary, ...]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Nothing would be refused."""
        return not self.refusals and not any(summary.refusals for summary in self.summaries)


def check_folders(sources: Sequence[str], *, base: str | None = None) -> CheckResult:
    """Inspect adapters one by one, then together. Refusals are collected, not raised.

    Raises:
        TcLoraError: the base cannot be read.
    """
    shapes = base_shapes(base) if base is not None else None
    summaries = tuple(inspect_adapter(source) for source in sources)
    sound = [read_adapter(source) for source, summary in zip(sources, summaries, strict=True) if not summary.refusals]
    refusals = [] if shapes is None else [_refusal(check_against_base, adapter, shapes) for adapter in sound]
    refusals += [_refusal(check_mergeable, sound)] if sound else []
    return CheckResult(summaries, tuple(r for r in refusals if r), tuple(_warnings(sound)))


def _warnings(adapters: list[Adapter]) -> Sequence[str]:
    return check_same_base(adapters) if len(adapters) > 1 else ()


def _refusal(check: Callable[..., object], *arguments: object) -> str | None:
    try:
        check(*arguments)
    except AdapterError as error:
        return str(error)
    return None
