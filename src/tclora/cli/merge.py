"""`tclora merge`: PEFT folders or Hub ids in, one PEFT folder out; or a file that says so; or a run's merge stage."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for, show_table
from tclora.cli.heavy_imports import heavy_imports
from tclora.cli.read_ahead import read_ahead
from tclora.errors import ConfigError

__all__ = ["merge"]


def merge(
    adapters: Annotated[list[str], typer.Argument(help="PEFT folders or Hub ids; or one CONFIG.yaml.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="The folder to write.")] = None,
    method: Annotated[str | None, typer.Option(help="See `tclora methods`. Default: tc_lora.")] = None,
    cp_rank: Annotated[str | None, typer.Option(help="Terms of the CP model (tc_lora).")] = None,
    rank: Annotated[str | None, typer.Option(help="Rank kept, by methods that cut it.")] = None,
    rule: Annotated[str | None, typer.Option(help="Component rule (tc_lora): mean, sum, self_weighted, ...")] = None,
    density: Annotated[str | None, typer.Option(help="Share kept, by methods that prune; one, or one each.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="Any parameter, as name=value.")] = None,
    param_for: Annotated[
        list[str] | None, typer.Option("--param-for", help="For some modules: PATTERN:name=value.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="One weight per adapter: 0.5,0.3,0.2.")] = None,
    weights_for: Annotated[
        list[str] | None, typer.Option("--weights-for", help="For some modules: PATTERN=0.5,0.3,0.2.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Multiplies the merged delta. Default: 1.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32. Default: bf16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Batches of modules at a time. Default: one per core.")] = None,
    base: Annotated[str | None, typer.Option(help="Check against this base; methods that learn load it.")] = None,
    examples: Annotated[list[str] | None, typer.Option("--examples", help="Data, for methods that learn.")] = None,
    learned: Annotated[str | None, typer.Option(help="What a method learned before.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of methods that draw.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Prove what was written; with a base folder, in PEFT.")
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="With CONFIG.yaml: a.b=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Shapes, bytes, expected time; writes nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Merge LoRA adapters of one base model into one, without the base model.

    Give one YAML file instead of adapters: of a merge, and flags win over it; or of a run, for its merge stage.
    """
    read_ahead(adapters, digests=True)
    from tclora.cli.merge_flags import MergeFlags, merge_file_from

    flags = MergeFlags(
        method=None if method is None else method.replace("-", "_"),
        params={"cp_rank": cp_rank, "rank": rank, "rule": rule, "density": density, "scale": scale},
        param_words=param or (),
        weights=weights,
        weights_for=weights_for or (),
        params_for=param_for or (),
        top={"dtype": dtype, "seed": seed, "base_model": base, "examples": examples, "learned": learned},
    )
    keys, where = _keys(adapters, set_ or [])
    if keys is None:
        _refuse_for_run(flags, out, verify=verify, overwrite=overwrite)
        from tclora.cli.run import run_until

        return run_until(adapters[0], "merge", set_ or [], seed=seed, dry_run=dry_run, as_json=as_json, quiet=quiet)
    if out is None:
        raise ConfigError("no output is named", where="tclora merge", do="add -o OUT")
    with heavy_imports():
        from tclora.pipeline.merges.folders import MergeRequest, merge_folders, plan_folders

    request = MergeRequest(
        file=merge_file_from(keys, flags, where=where),
        out=out,
        device=device,
        workers=workers,
        overwrite=overwrite,
        verify=verify,
        command=shlex.join(["tclora", *sys.argv[1:]]),
    )
    progress = progress_for(quiet)
    if dry_run:
        return _show_plan(plan_folders(request, progress), as_json)
    _show(merge_folders(request, progress), as_json)


def _keys(words: list[str], overrides: list[str]) -> tuple[dict | None, str]:
    """The keys of the merge that `words` name and where they stand; no keys where they name a run's file."""
    from tclora.config import config_kind, read_merge_keys

    files = [word for word in words if Path(word).suffix in (".yaml", ".yml")]
    if not files:
        if overrides:
            raise ConfigError("--set changes a file, and none is given", where="--set", do="use the flags of merge")
        return {"adapters": words}, "tclora merge"
    if len(words) > 1:
        raise ConfigError(
            "a file is given beside other things to merge",
            where=files[0],
            found=", ".join(words),
            expected="adapters, or one file",
            do="name the adapters in the file",
        )
    data = read_merge_keys(Path(files[0]), overrides)
    return (data if config_kind(data, where=files[0]) == "merge" else None), files[0]


def _refuse_for_run(flags, out: str | None, *, verify: bool, overwrite: bool) -> None:
    """A run's file says all of its merges; a flag for one of them would go unheard."""
    from dataclasses import asdict

    given = {name: value for name, value in {**flags.params, **flags.top, **asdict(flags)}.items() if value}
    given = {name for name in given if name not in ("params", "top", "seed")}
    given |= {name for name, value in (("out", out), ("verify", verify), ("overwrite", overwrite)) if value}
    if given:
        raise ConfigError(
            "the file is that of a run, whose merges it describes itself",
            where="tclora merge",
            found="also " + ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given)),
            do="use --set merge.0.params.cp_rank=16 and the like, or merge the run's adapters by name",
        )


def _show(record, as_json: bool) -> None:
    fields = ("method", "n_adapters", "n_modules", "out_rank", "relative_error", "identity_error")
    result = {name: getattr(record, name) for name in (*fields, "wall_s", "peak_bytes", "out", "dtype", "scale")}
    if as_json:
        return emit_json(result | ({"verified": record.verified} if record.verified else {}))
    typer.echo(f"{record.n_adapters} adapters, {record.n_modules} modules -> {record.out} (rank {record.out_rank})")
    typer.echo(f"  method          {record.method} {record.params or ''}")
    typer.echo(f"  relative error  {record.relative_error:.6g} of the method's own model")
    about = f"one adapter at weight 1 comes back{_through(record.method)}; at most 1e-6"
    typer.echo(f"  identity check  {record.identity_error:.1e} ({about})")
    typer.echo(f"  time, memory    {record.wall_s:.2f} s, {record.peak_bytes / 1e6:.0f} MB")
    if record.verified:
        from tclora.pipeline.merges.verified_table import HEADER, verified_rows

        show_table("Verified", HEADER, verified_rows(record.verified))


def _through(method: str) -> str:
    from tclora.merging import identity_through

    other = identity_through(method)
    return f" through {other}" if other else ""


def _show_plan(plan: dict[str, object], as_json: bool) -> None:
    if as_json:
        return emit_json(plan)
    for key, value in plan.items():
        rows = value if isinstance(value, list) else [value]
        for index, row in enumerate(rows):
            typer.echo(f"{key if index == 0 else '':<22} {row}")
