"""Copies of adapters that servers load: the scale folded in, one rank, no patterns, no settings that servers trip over.

In: a `FixRequest`. Out: one PEFT folder per adapter and what was changed. Only what a copy can put right is put right;
the delta stays, up to the dtype and, where a limit asks for it, a truncation whose error is stated. Refused before
anything is written: adapters that are not plain LoRAs, and findings that a copy keeps. Each copy is checked again by
the servers' own rules, and against its source, before it appears.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tclora.adapters import (
    Adapter,
    BaseShapes,
    Finding,
    base_shapes,
    check_against_base,
    fill_adapter_folder,
    rank_limit,
    read_adapter,
    refuse_existing,
    serving_facts,
    serving_findings,
)
from tclora.artifacts import staged_folder
from tclora.errors import AdapterError, ConfigError
from tclora.pipeline.checks.cut_rank import cut_rank, largest_rank, module_distances
from tclora.pipeline.checks.fix_card import fix_card
from tclora.pipeline.checks.folders import named_servers
from tclora.pipeline.dtypes import torch_dtype
from tclora.pipeline.progress import Progress, Silent

__all__ = ["FixRequest", "FixedCopy", "fix_folders"]


@dataclass(frozen=True)
class FixRequest:
    """What `tclora check --fix` was asked for. `rank` is that of the copies, `max_rank` the servers' limit."""

    adapters: tuple[str, ...]
    out: str
    targets: tuple[str, ...] = ("all",)
    max_rank: int | None = None
    rank: int | None = None
    dtype: str = "bf16"
    base: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class FixedCopy:
    """One copy: its rank, what was lost, and what remains to be said.

    `cut_error` is the largest relative error of a module that was cut (0 if none was) and `cut_module` that module.
    `distance` is the largest relative distance of a module on disk from the source, rounding to `dtype` included.
    """

    adapter: str
    source: str
    out: str
    rank: int
    dtype: str
    cut_error: float
    cut_module: str | None
    n_cut: int
    distance: float
    fixed: tuple[str, ...]
    flags: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Plan:
    source: str
    adapter: Adapter
    out: Path
    rank: int
    fixed: tuple[str, ...]


def fix_folders(request: FixRequest, progress: Progress | None = None) -> tuple[FixedCopy, ...]:
    """Write one copy per adapter: into `out` itself, or into `out/<name>` where there are several.

    Raises:
        TcLoraError: the request is wrong, an adapter cannot be put right (names the reasons), or an output exists.
            Nothing is written unless every adapter can be read and put right.
    """
    told = progress or Silent()
    servers = named_servers(request.targets, request.max_rank)
    shapes = base_shapes(request.base) if request.base is not None else None
    torch_dtype(request.dtype)
    _check_ranks(request, servers)
    plans = [_plan(request, source, servers, shapes) for source in request.adapters]
    _check_outputs(request, plans)
    told.begin("fix")
    copies = []
    for turn, plan in enumerate(plans):
        copies.append(_write(request, plan, servers, shapes))
        told.step("fix", turn + 1, len(plans))
    return tuple(copies)


def chosen_rank(largest: int, servers: Sequence[str], *, rank: int | None, max_rank: int | None) -> int:
    """The rank to write: `rank`, or the largest within the limit, padded to a value that servers' flags take.

    Without `rank` and `max_rank` only the largest value that a server can be started with limits it.
    """
    if rank is not None:
        return rank
    kept = min([largest, *(_tops(servers) if max_rank is None else [max_rank])])
    limits = [limit for server in servers if (limit := rank_limit(server)) is not None]
    return max([kept, *(limit.smallest_for(kept) or kept for limit in limits)])


def _tops(servers: Sequence[str]) -> list[int]:
    """The largest value that each server with a list of values can be started with."""
    return [limit.allowed[-1] for server in servers if (limit := rank_limit(server)) is not None and limit.allowed]


def _check_ranks(request: FixRequest, servers: Sequence[str]) -> None:
    if request.rank is None:
        return
    if request.rank < 1:
        raise ConfigError("a rank is 1 or more", where="--rank", found=request.rank)
    tops = _tops(servers) if request.max_rank is None else [request.max_rank]
    top = min([request.rank, *tops])
    if request.rank > top:
        raise ConfigError(
            "the rank asked for is above the limit of a server",
            where="--rank",
            found=request.rank,
            expected=f"at most {top}",
            do="ask for a smaller rank",
        )


def _plan(request: FixRequest, source: str, servers: Sequence[str], shapes: BaseShapes | None) -> _Plan:
    adapter = read_adapter(source)
    for path in adapter.modules:
        # Reading is checking: a damaged module of the last adapter must be found before the first copy is written.
        adapter.modules[path]
    if shapes is not None:
        check_against_base(adapter, shapes)
    rank = chosen_rank(largest_rank(adapter), servers, rank=request.rank, max_rank=request.max_rank)
    found = _findings(source, servers, request.max_rank, rank, shapes)
    stubborn = [finding for finding in found if not finding.fixable and finding.severity != "warn"]
    if stubborn:
        raise _beyond(adapter.name, source, stubborn)
    out = Path(request.out) / adapter.name if len(request.adapters) > 1 else Path(request.out)
    fixed = tuple(dict.fromkeys(f"{finding.what}: {finding.found}" for finding in found if finding.fixable))
    return _Plan(source, adapter, out, rank, fixed)


def _beyond(name: str, source: str, findings: Sequence[Finding]) -> AdapterError:
    return AdapterError(
        f"{name} cannot be made to load by a copy",
        where=source,
        found="; ".join(f"{f.target}: {f.what} ({f.found})" for f in findings),
        expected="findings that folding the scale, one rank and plain settings put right",
        do=f"{findings[0].do}; or name only the servers you need with --target",
    )


def _check_outputs(request: FixRequest, plans: Sequence[_Plan]) -> None:
    seen: dict[Path, str] = {}
    for plan in plans:
        if plan.out in seen:
            raise ConfigError(
                "two adapters have one name",
                where=plan.out,
                found=f"{seen[plan.out]} and {plan.source}",
                do="fix them one by one, or rename a folder",
            )
        seen[plan.out] = plan.source
        refuse_existing(plan.out, overwrite=request.overwrite)
        for source in request.adapters:
            if Path(source).exists() and plan.out.resolve().is_relative_to(Path(source).resolve()):
                raise ConfigError(
                    "the output is one of the adapters, or inside it", where=plan.out, do="choose another output"
                )


def _write(request: FixRequest, plan: _Plan, servers: Sequence[str], shapes: BaseShapes | None) -> FixedCopy:
    cut, errors = cut_rank(plan.adapter, plan.rank)
    worst = max(errors, key=lambda path: errors[path], default=None)
    flags = {server: flag for server in servers if (flag := _flag(server, plan.rank)) is not None}
    again = partial(refuse_existing, plan.out, overwrite=request.overwrite)
    with staged_folder(plan.out, overwrite=request.overwrite, refuse=again) as staging:
        card = fix_card(plan.adapter, plan.rank, request.dtype, plan.fixed, errors)
        fill_adapter_folder(cut, staging, dtype=torch_dtype(request.dtype), rank=plan.rank, card=card)
        left = _findings(staging, servers, request.max_rank, plan.rank, shapes)
        broken = [finding for finding in left if finding.severity != "warn"]
        if broken:
            raise _beyond(plan.adapter.name, plan.source, broken)
        distances = module_distances(read_adapter(staging), plan.adapter)
    return FixedCopy(
        adapter=plan.adapter.name,
        source=plan.source,
        out=str(plan.out),
        rank=plan.rank,
        dtype=request.dtype,
        cut_error=_worst(errors),
        cut_module=worst,
        n_cut=len(errors),
        distance=_worst(distances),
        fixed=plan.fixed,
        flags=tuple(f"{server}: {flag}" for server, flag in flags.items()),
        findings=tuple(left),
    )


def _findings(
    source: str | Path, servers: Sequence[str], max_rank: int | None, rank: int, shapes: BaseShapes | None
) -> list[Finding]:
    """What the servers say where each is started with a limit that holds `rank`, or with the limit that was given."""
    facts = serving_facts(source, base=shapes)
    found: list[Finding] = []
    for server in servers:
        limit = rank_limit(server)
        top = max_rank if max_rank is not None or limit is None else limit.smallest_for(rank)
        found += serving_findings(facts, server, max_rank=top)
    return found


def _flag(server: str, rank: int) -> str | None:
    limit = rank_limit(server)
    needed = limit.smallest_for(rank) if limit is not None else None
    if limit is None or needed is None or (limit.default or 0) >= needed:
        return None
    return f"{limit.flag} {needed}"


def _worst(errors: Mapping[str, float]) -> float:
    return max(errors.values(), default=0.0)
