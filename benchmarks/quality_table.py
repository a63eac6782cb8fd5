"""The results of `which_method.py` as a page of Markdown: what was asked, what was found, how it was run."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown"]

Row = Mapping[str, Any]


def markdown(results: Row) -> str:
    """The page; every figure on it is in the JSON of the same name."""
    parts = [
        f"# Every merge method on the library of {results['run']}",
        _asked(results),
        _main_table(results),
        _legend(results),
        "## At scale 1, as a user gets it",
        _default_table(results),
        "## Two adapters",
        _two_table(results["two_adapters"]),
        *_learned_part(results["methods"]),
        *_left_out_part(results["left_out"]),
        "## How it was run",
        _how(results),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(difference: Row) -> str:
    """What a paired interval says, to the three digits that are shown."""
    low, high = round(difference["low"], 3), round(difference["high"], 3)
    if low == high == 0:
        return "equal"
    if high < 0:
        return "better"
    return "worse" if low > 0 else "not told apart"


def _asked(results: Row) -> str:
    rows = results["rows"]
    return (
        f"{results['n_adapters']} adapters of rank {results['adapter_rank']}, base `{results['base']}`. "
        "Loss in nats per response token, lower is better. "
        f"Scales were chosen on {rows['choose']} dev rows; the figures are of {rows['report']} other dev rows "
        f"and {rows['held_out']} rows of task families that no adapter saw. "
        f"In brackets 95 % intervals over rows ({results['n_bootstrap']:,} bootstrap draws), "
        "paired: the difference to `mean` on the same rows."
    )


def _main_table(results: Row) -> str:
    head = ("method", "rank", "scale", "loss", "less mean", "", "unseen tasks", "less mean", "", "norm", "cosine")
    body = [_chosen_row(row) for row in sorted(results["methods"], key=lambda row: row["chosen"]["report"]["value"])]
    controls = [[*_control_row(row, "chosen"), "", ""] for row in results["controls"]]
    return _table(head, [*controls, *body], align="l r r r r l r r l r r")


def _chosen_row(row: Row) -> list[str]:
    found = row["chosen"]
    shape = [f"{row['norm_to_mean'] * found['scale']:.2f}", f"{row['cosine_to_mean']:.2f}"]
    searched = sorted(float(scale) for scale in row["losses_by_scale"])
    at_end = "*" if found["scale"] in (searched[0], searched[-1]) else ""
    return [f"`{row['label']}`", str(row["rank"]), f"{found['scale']:.3g}{at_end}", *_figures(found), *shape]


def _control_row(row: Row, which: str) -> list[str]:
    return [f"*{row['name']}*", "", "", *_figures(row[which])]


def _figures(found: Row, folds: Sequence[str] = ("report", "held_out")) -> list[str]:
    cells = []
    for fold in folds:
        difference = found[f"{fold}_less_mean"]
        cells += [f"{found[fold]['value']:.3f}", _signed(difference), verdict(difference)]
    return cells


def _legend(results: Row) -> str:
    grid, n_rows = ", ".join(f"{scale:g}" for scale in results["grid"]), len(results["methods"])
    return (
        "Each method at its own best scale, against `mean` at its own best scale: "
        f"the lowest of {grid}, then two steps in between (*: the lowest was at the end of these). "
        "Chosen so, `task_arithmetic` and `mean`, which differ by their scale alone, show what the search leaves open. "
        "*Norm* is that of the scaled update over that of the mean at scale 1; "
        "*cosine* is between the update and the mean, all modules as one vector. "
        f"Of {n_rows} comparisons at 95 %, about {max(1, round(n_rows * 0.05))} would be told apart by chance alone."
    )


def _default_table(results: Row) -> str:
    head = ("method", "merge s", "model error", "loss", "less mean", "", "unseen tasks", "less mean", "")
    rows = sorted(results["methods"], key=lambda row: row["default"]["report"]["value"])
    body = [
        [f"`{row['label']}`", f"{row['merge_s']:.2f}", f"{row['relative_error']:.2f}", *_figures(row["default"])]
        for row in rows
    ]
    controls = [_control_row(row, "default") for row in results["controls"]]
    return _table(head, [*controls, *body], align="l r r r r l r r l")


def _two_table(two: Row) -> str:
    head = ("method", "loss at 1", "less mean", "", "scale", "loss", "less mean", "")
    body = []
    for row in two["methods"]:
        chosen = row["chosen"]
        cells = [*_figures(row["default"], ("report",)), f"{chosen['scale']:.3g}", *_figures(chosen, ("report",))]
        body.append([f"`{row['method']}`", *cells])
    note = (
        f"{' and '.join(two['adapters'])}, whose cosine is {two['cosine']:.2f}: "
        f"scales chosen on {two['n_choose']} rows of their clusters, figures of {two['n_report']} others; "
        "on the left at scale 1."
    )
    return f"{note}\n\n{_table(head, body, align='l r r l r r r l')}"


def _learned_part(methods: Sequence[Row]) -> list[str]:
    rows = [row for row in methods if row["learned_from"]]
    if not rows:
        return []
    head = ("method", "examples", "seconds", "its loss before", "after", "settings")
    body = []
    for row in rows:
        found = row["learned_from"]
        losses = [_or_dash(found["loss_before"]), _or_dash(found["loss_after"])]
        settings = ", ".join(f"{key}={value}" for key, value in found["params"].items())
        body.append([f"`{row['label']}`", str(found["n_examples"]), f"{row['learn_s']:.0f}", *losses, settings])
    note = "From training rows of the clusters, with fewer steps than the defaults; no dev row was used."
    return ["## What was learned", f"{note}\n\n{_table(head, body, align='l r r r r l')}"]


def _left_out_part(left_out: Sequence[Row]) -> list[str]:
    if not left_out:
        return []
    lines = [f"- `{row['method']}`: {' '.join(row['why'].split())}" for row in left_out]
    return ["## Left out", "\n".join(lines)]


def _how(results: Row) -> str:
    machine, versions = results["machine"], results["versions"]
    tree = " with changes not committed" if results["uncommitted"] else ""
    return (
        f"```sh\n{results['command']}\n```\n\n"
        f"{results['date']}, commit {results['commit']}{tree} (sources {results['source_sha256']}), "
        f"{results['wall_s'] / 60:.1f} minutes on {results['threads']} thread of {machine['cpu']} "
        f"({machine['n_cpu']} cores, shared with other work), "
        f"torch {versions['torch']}, seed {results['seed']}. One seed of the folds, the samples and the methods."
    )


def _signed(difference: Row) -> str:
    return f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]], *, align: str) -> str:
    if any(len(cells) != len(head) for cells in body):
        raise ValueError("a row of the table is not as wide as its head")
    rule = ["--:" if side == "r" else "---" for side in align.split()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))
