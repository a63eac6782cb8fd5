"""`tclora merge`: PEFT folders or Hub ids in, one PEFT folder out."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for
from tclora.errors import ConfigError

__all__ = ["merge"]


def merge(
    adapters: Annotated[list[str], typer.Argument(help="PEFT folders or Hub ids; or one run's CONFIG.yaml.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="The folder to write.")] = None,
    method: Annotated[str, typer.Option(help="See `tclora methods`.")] = "tc_lora",
    cp_rank: Annotated[int | None, typer.Option(help="Terms of the CP model (tc_lora).")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank kept (svd).")] = None,
    rule: Annotated[str | None, typer.Option(help="Component rule (tc_lora): mean, sum, self_weighted, ...")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="Any other parameter, as name=value.")] = None,
    weights: Annotated[str | None, typer.Option(help="One weight per adapter: 0.5,0.3,0.2. Default: 1/n each.")] = None,
    scale: Annotated[float, typer.Option(help="Multiplies the merged delta.")] = 1.0,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    base: Annotated[str | None, typer.Option(help="Check against this base's config and headers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of methods that draw.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="With CONFIG.yaml: a.b=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Shapes, bytes, expected time; writes nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Merge LoRA adapters of one base model into one, without the base model.

    Give one YAML file instead of adapters to run the merge stage of a pipeline.
    """
    if len(adapters) == 1 and Path(adapters[0]).suffix in (".yaml", ".yml"):
        from tclora.cli.run import run_until

        return run_until(adapters[0], "merge", set_ or [], seed=seed, as_json=as_json, quiet=quiet)
    if out is None:
        raise ConfigError("no output is named", where="tclora merge", do="add -o OUT")
    from tclora.pipeline.merge_folders import MergeRequest, merge_folders, plan_folders

    named = {"cp_rank": cp_rank, "rank": rank, "rule": rule, "seed": _seed_for(method, seed)}
    request = MergeRequest(
        adapters=tuple(adapters),
        out=out,
        method=method.replace("-", "_"),
        params={**_pairs(param or []), **{name: value for name, value in named.items() if value is not None}},
        weights=None if weights is None else _numbers(weights),
        scale=scale,
        dtype=dtype,
        device=device,
        base=base,
        overwrite=overwrite,
        command=shlex.join(["tclora", *sys.argv[1:]]),
    )
    progress = progress_for(quiet)
    if dry_run:
        return _show_plan(plan_folders(request, progress), as_json)
    record = merge_folders(request, progress)
    _show(record, as_json)


def _show(record, as_json: bool) -> None:
    fields = ("method", "n_adapters", "n_modules", "out_rank", "relative_error", "identity_error")
    result = {name: getattr(record, name) for name in (*fields, "wall_s", "peak_bytes", "out", "dtype", "scale")}
    if as_json:
        return emit_json(result)
    typer.echo(f"{record.n_adapters} adapters, {record.n_modules} modules -> {record.out} (rank {record.out_rank})")
    typer.echo(f"  method          {record.method} {record.params or ''}")
    typer.echo(f"  relative error  {record.relative_error:.6g} of the method's own model")
    typer.echo(f"  identity check  {record.identity_error:.1e} (one adapter at weight 1 comes back; at most 1e-6)")
    typer.echo(f"  time, memory    {record.wall_s:.2f} s, {record.peak_bytes / 1e6:.0f} MB")


def _show_plan(plan: dict[str, object], as_json: bool) -> None:
    if as_json:
        return emit_json(plan)
    for key, value in plan.items():
        rows = value if isinstance(value, list) else [value]
        for index, row in enumerate(rows):
            typer.echo(f"{key if index == 0 else '':<22} {row}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            "the weights are not numbers", where="--weights", found=text, expected="0.5,0.3,0.2"
        ) from None


def _pairs(words: list[str]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for word in words:
        name, found, value = word.partition("=")
        if not found:
            raise ConfigError("a parameter is not name=value", where="--param", found=word)
        pairs[name.strip().replace("-", "_")] = value.strip()
    return pairs


def _seed_for(method: str, seed: int | None) -> int | None:
    """The seed, where the method draws anything; a method that does not is the same under every seed."""
    if seed is None:
        return None
    import dataclasses

    from tclora.merging import default_params

    known = {field.name for field in dataclasses.fields(default_params(method))}  # pyright: ignore[reportArgumentType]
    return seed if "seed" in known else None
