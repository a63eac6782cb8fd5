"""`tclora analyse`: where adapters collide, as figures, as two heat maps, and as a folder of tables."""

import shlex
import sys
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for
from tclora.cli.heavy_imports import heavy_imports
from tclora.cli.read_ahead import read_ahead

__all__ = ["analyse"]


def analyse(
    adapters: Annotated[list[str], typer.Argument(help="PEFT folders or Hub ids.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="A folder for analysis.json and CSV tables.")] = None,
    cp_rank: Annotated[int, typer.Option(help="Terms of the CP model; 0 fits none, which is faster.")] = 20,
    curve: Annotated[bool, typer.Option("--curve", help="Fit CP models of 1, 2, 5, 10, 20 and 40 terms too.")] = False,
    starts: Annotated[int, typer.Option(help="Random starts of the CP solver, beside two from singular vectors.")] = 0,
    sweeps: Annotated[int, typer.Option(help="Most sweeps of the CP solver.")] = 10,
    base: Annotated[str | None, typer.Option(help="A folder to check against, or an id to compare names with.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampled entries and random starts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing analysis.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """See where LoRA adapters collide, layer by layer, without the base model."""
    read_ahead(adapters)
    with heavy_imports():
        from tclora.analysis import AnalysisSettings
        from tclora.pipeline.analyse_folders import AnalyseRequest, analyse_folders

    request = AnalyseRequest(
        adapters=tuple(adapters),
        out=out,
        settings=AnalysisSettings(
            cp_rank=cp_rank if cp_rank != 0 else None, curve=curve, n_starts=starts, max_iter=sweeps, seed=seed
        ),
        base=base,
        overwrite=overwrite,
        command=shlex.join(["tclora", *sys.argv[1:]]),
    )
    result = analyse_folders(request, progress_for(quiet))
    if as_json:
        return emit_json(_plain(result))
    _show(result)


def _plain(result) -> dict[str, object]:
    """Everything but the pairs of single modules, which are many; the folder holds them."""
    modules = [{key: value for key, value in vars(m).items() if key != "pairs"} for m in result.analysis.modules]
    return vars(result.analysis) | {"modules": modules, "out": result.out, "wall_s": round(result.wall_s, 3)}


def _show(result) -> None:
    from tclora.cli.heat_map import show_heat_map

    analysis, total = result.analysis, result.analysis.total
    typer.echo(f"{len(analysis.adapters)} adapters, {analysis.n_modules} modules")
    for label, value in _headlines(analysis):
        typer.echo(f"  {label:<22} {value}")
    maps = [("Mean cosine of two deltas", "cosine")]
    if total.cp_sti_ratio is not None:
        maps.insert(0, (f"CP-STI at {analysis.cp_rank} terms, over the sum of weights", "cp_sti_ratio"))
    for title, figure in maps:
        show_heat_map(title, *_grid(analysis.cells, figure))
    if result.out is not None:
        typer.echo(f"tables   {result.out}")


def _headlines(analysis) -> list[tuple[str, str]]:
    total = analysis.total
    lines = [
        ("STI ratio", f"{_figure(total.sti_ratio)} (0: orthogonal adapters)"),
        ("mean cosine", f"{_figure(total.cosine)} of two deltas"),
        ("shared energy", f"{_figure(total.shared_energy)} (1: equal, {1 / len(analysis.adapters):.3f}: orthogonal)"),
        ("sign conflict of pairs", f"{_figure(total.pair_sign_conflict)} (0.5: unrelated)"),
        ("lost when added", f"{_figure(total.cancelled)} of all magnitude"),
    ]
    if total.cp_sti_ratio is not None:
        degenerate = sum(module.cp.degenerate for module in analysis.modules)
        lines.insert(0, ("CP-STI ratio", f"{_figure(total.cp_sti_ratio)}, fit {_figure(total.cp_fit)}"))
        lines += [("degenerate CP fits", f"{degenerate} of {analysis.n_modules}")] if degenerate else []
    return lines


def _grid(cells, figure: str) -> tuple[list[str], list[str], dict[tuple[str, str], float | None]]:
    """Rows are layers, columns kinds; the means of a row stand under `all`."""
    kept = [cell for cell in cells if cell.layer != "all"]
    rows = list(dict.fromkeys(cell.layer for cell in kept))
    columns = [*sorted({cell.kind for cell in kept} - {"all"}), "all"]
    return rows, columns, {(cell.layer, cell.kind): getattr(cell, figure) for cell in kept}


def _figure(value: float | None) -> str:
    # Rounded first, so that no zero has a sign.
    return "–" if value is None else f"{round(value, 3) + 0.0:.3f}"
