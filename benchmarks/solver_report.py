"""From the raw numbers of the solver study to its tables and its plot.

In: the traces and policies of `solver_study.py`. Out: a summary of plain values, a README with tables, and a plot.
Excess is a relative error minus the lowest that anything found on that stack; fits that ended degenerate do not count
as a find. Times are CPU milliseconds per module.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["summarize", "summarize_policies", "write_report"]

AT = (5, 10, 20, 50, 100, 300)
ACCELERATIONS = ("plain", "extrapolated", "line search", "anderson 3", "anderson 5", "gauss-newton after 20")
START_SETS: dict[str, Callable[[str], bool]] = {
    "task_svd": lambda name: name == "task_svd",
    "hosvd": lambda name: name == "hosvd",
    "both": lambda name: "svd" in name,
    "4 normals": lambda name: _number(name) < 4,
    "20 normals": lambda name: "normal" in name,
    "both and 4 normals": lambda name: "svd" in name or _number(name) < 4,
    "task_svd and 20 normals": lambda name: name != "hosvd",
    "both and 20 normals": lambda name: True,
}
_Raw = dict[str, Any]
_Key = tuple[str, int]


def summarize(raw: _Raw) -> dict[str, Any]:
    """All tables as plain values."""
    traces, policies = list(raw["traces"].values()), list(raw["policies"].values())
    best = _best(traces, policies)
    names = list(dict.fromkeys(trace["name"] for trace in traces))
    every = [trace for trace in traces if trace["name"] == "all starts"]
    details = [name for name in names if name not in ("all starts", *ACCELERATIONS)]
    return {
        "n_stacks": sum(len(errors) for errors in best.values()),
        "best_error": {f"{batch}, R {rank}": [round(e, 5) for e in errors] for (batch, rank), errors in best.items()},
        "acceleration": {name: _curve(_named(traces, name), best) for name in ACCELERATIONS},
        "starts": {name: _curve(every, best, chosen) for name, chosen in START_SETS.items()},
        "wins": _wins(every),
        "details": {name: _at_most_100(_curve(_named(traces, name), best)) for name in ["extrapolated", *details]},
        "policies": summarize_policies(policies, best),
        "dense_check": max((trace.get("dense_check", 0.0) for trace in traces), default=0.0),
    }


def summarize_policies(policies: list[_Raw], best: dict[_Key, np.ndarray] | None = None) -> dict[str, dict[str, Any]]:
    """The table of the whole solver; without `best`, against the lowest error among these policies."""
    known = _best([], policies) if best is None else best
    return {name: _policy(_named(policies, name), known) for name in dict.fromkeys(p["name"] for p in policies)}


def _number(name: str) -> int:
    return int(name.removeprefix("normal_")) if name.startswith("normal_") else 10**9


def _named(parts: list[_Raw], name: str) -> list[_Raw]:
    return [part for part in parts if part["name"] == name]


def _key(part: _Raw) -> _Key:
    return part["batch"], part["cp_rank"]


def _best(traces: list[_Raw], policies: list[_Raw]) -> dict[_Key, np.ndarray]:
    best: dict[_Key, np.ndarray] = {}
    for trace in traces:
        errors = np.where(np.array(trace["degenerate"])[None], np.inf, np.array(trace["errors"])).min(axis=(0, 2))
        best[_key(trace)] = np.minimum(best.get(_key(trace), np.inf), errors)
    for policy in policies:
        best[_key(policy)] = np.minimum(best.get(_key(policy), np.inf), policy["errors"])
    return best


def _curve(
    traces: list[_Raw],
    best: dict[_Key, np.ndarray],
    chosen: Callable[[str], bool] = lambda name: True,
) -> list[dict[str, float]]:
    """The best of the chosen starts after some sweeps, over all stacks."""
    rows = []
    for place, sweeps in enumerate(traces[0]["sweeps"]):
        excess, cpu_s, n_degenerate = [], 0.0, 0
        for trace in traces:
            kept = [k for k, name in enumerate(trace["starts"]) if chosen(name)]
            excess += list(np.array(trace["errors"])[place][:, kept].min(axis=1) - best[_key(trace)])
            cpu_s += trace["cpu_s"][place] * len(kept) / len(trace["starts"])
            n_degenerate += int(np.array(trace["degenerate"])[:, kept].sum())
        rows.append({"sweeps": sweeps, **_facts(excess, cpu_s), "n_degenerate_at_end": n_degenerate})
    return rows


def _at_most_100(curve: list[dict[str, float]]) -> dict[str, float]:
    return [row for row in curve if row["sweeps"] <= 100][-1]


def _facts(excess: list[float], cpu_s: float) -> dict[str, float]:
    numbers = {"median": np.median(excess), "mean": np.mean(excess), "worst": np.max(excess)}
    return {"cpu_ms": round(1e3 * cpu_s / len(excess), 2)} | {name: round(float(x), 6) for name, x in numbers.items()}


def _wins(traces: list[_Raw]) -> dict[str, dict[str, int]]:
    """Which start is best in the end, by kind of stack."""
    wins: dict[str, Counter[str]] = {}
    for trace in traces:
        for label, row in zip(trace["labels"], np.array(trace["errors"])[-1], strict=True):
            winner = trace["starts"][int(row.argmin())]
            kind = label.split()[0] if trace["batch"].startswith("made") else trace["batch"]
            wins.setdefault(kind, Counter())["normal" if "normal" in winner else winner] += 1
    return {kind: {name: counts[name] for name in ("task_svd", "hosvd", "normal")} for kind, counts in wins.items()}


def _policy(parts: list[_Raw], best: dict[_Key, np.ndarray]) -> dict[str, Any]:
    excess = [e for part in parts for e in np.array(part["errors"]) - best[_key(part)]]
    winners = Counter("normal" if "normal" in start else start for part in parts for start in part["start"])
    facts = _facts(excess, sum(part["cpu_s"] for part in parts))
    sweeps = np.mean([n for part in parts for n in part["n_iter"]])
    n_degenerate = sum(part["degenerate"] for part in parts)
    return {**facts, "mean_sweeps": round(float(sweeps), 1), "n_degenerate": n_degenerate, "winners": dict(winners)}


def write_report(summary: dict[str, Any], folder: Path) -> None:
    """Tables as Markdown and the plot as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text("\n\n".join(_tables(summary)) + "\n")
    _plot(summary, folder / "error_against_time.png")


def _tables(summary: dict[str, Any]) -> list[str]:
    about = (
        "Made by `benchmarks/solver_study.py`; what they mean is in the [README](README.md). CPU time is per module."
    )
    head = ["# Tables of the solver study", f"{about} Errors are the excess over the lowest known on a stack."]
    curves = {
        "Acceleration: six starts each (both made ones, four normals)": summary["acceleration"],
        "Starts and sweeps: extrapolated ALS": summary["starts"],
    }
    parts = [*head, *(part for title, rows in curves.items() for part in (f"## {title}", _curve_table(rows)))]
    parts += ["## Precision, stride, guard and ridge: six starts, 100 sweeps", _detail_table(summary["details"])]
    parts += ["## Which start is best after 300 sweeps", _wins_table(summary["wins"])]
    return [*parts, "## The whole solver", _policy_table(summary["policies"])]


def _curve_table(curves: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name, curve in curves.items():
        shown = [row for row in curve if row["sweeps"] in AT or "newton" in name]
        rows += [[name, f"{row['sweeps']:.0f}", *_numbers(row)] for row in shown]
    return _markdown(["", "sweeps or steps", "CPU ms", "median", "mean", "worst"], rows)


def _detail_table(details: dict[str, dict[str, float]]) -> str:
    rows = [[name, *_numbers(row), f"{row['n_degenerate_at_end']:.0f}"] for name, row in details.items()]
    return _markdown(["", "CPU ms", "median", "mean", "worst", "degenerate at the end"], rows)


def _wins_table(wins: dict[str, dict[str, int]]) -> str:
    starts = list(next(iter(wins.values())))
    return _markdown(
        ["stacks", *starts], [[kind, *(str(row[start]) for start in starts)] for kind, row in wins.items()]
    )


def _policy_table(policies: dict[str, dict[str, Any]]) -> str:
    rows = [[name, *_numbers(row), f"{row['mean_sweeps']:.0f}"] for name, row in policies.items()]
    return _markdown(["settings", "CPU ms", "median", "mean", "worst", "sweeps"], rows)


def _numbers(row: dict[str, Any]) -> list[str]:
    return [f"{row['cpu_ms']:.0f}", f"{row['median']:.5f}", f"{row['mean']:.5f}", f"{row['worst']:.4f}"]


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plot(summary: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for name, curve in summary["acceleration"].items():
        _line(left, name, curve, "o" if "newton" in name else None)
    for name, curve in summary["starts"].items():
        _line(right, name, curve, None)
    for name, marker in (("quick", "*"), ("thorough", "P")):
        row = summary["policies"][name]
        right.plot(row["cpu_ms"], row["mean"], marker, color="black", markersize=11, label=f"tc_lora {name}", zorder=5)
    left.set_title("six starts, five ways to accelerate ALS")
    right.set_title("extrapolated ALS, eight sets of starts")
    left.set_ylabel("mean excess over the lowest relative error known")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="CPU ms per module, one thread")
        axes.grid(which="both", alpha=0.25)
        axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=130)


def _line(axes: Any, name: str, curve: list[dict[str, float]], marker: str | None) -> None:
    # Marks at the sweeps of the tables; the whole curve between them.
    x, y = [row["cpu_ms"] for row in curve], [max(row["mean"], 1e-6) for row in curve]
    marked = [k for k, row in enumerate(curve) if marker or row["sweeps"] in AT]
    axes.plot(x, y, marker="o", markersize=3.5, markevery=marked, linewidth=1.4, label=name)
