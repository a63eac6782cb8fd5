"""Which method when: every merge method on the library of a real run, by loss on rows that chose nothing.

    python benchmarks/which_method.py runs/real --quick                 a minute, to see that it runs
    python benchmarks/which_method.py runs/real --out docs/results/which-method

Each method merges the run's adapters at its defaults. The merged adapter is scored at scale 1, and at the scale that
has the lowest loss on one half of the dev rows (`choose`): a walk downhill from 1 on a grid, whose ends turn a mean
into a sum and a sum into a mean, then two steps to the vertex of a parabola in the logarithm of the scale. Losses are
reported on the other half (`report`) and on the held-out task families: nats per response token, and the paired
difference to `mean` with its 95 % bootstrap interval, scale 1 against scale 1 and each at its own chosen scale. Methods
of two adapters are compared with each other on the two largest clusters. Methods that learn do so from training rows,
with fewer steps than their defaults; the settings are in the JSON. Results go to OUT as JSON and Markdown; the last
line of output is JSON. Losses are kept in the work folder, so a run that was cut off goes on where it was.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from machine_facts import provenance
from quality_table import markdown
from real_library import (
    CHOOSE,
    CHOOSE_TWO,
    HELD_OUT,
    REPORT,
    REPORT_TWO,
    Losses,
    RealLibrary,
    Sizes,
    cosine,
    norm,
    open_library,
    scaled,
)
from tclora.adapters import Adapter
from tclora.errors import TcLoraError
from tclora.evaluation import mean_loss, paired_difference
from tclora.merging import MERGE_METHODS, MergeResult, default_weight, merge_adapters, parse_params
from tclora.merging.learning import Learned, LearningProblem, learn_weights, learns
from tclora.pipeline.experiments.scale_search import search_scale

N_BOOTSTRAP = 2000
STEPS = (0.3, 0.5, 1.0, 2.0, 3.0, 5.0)
# What learning costs at the defaults is for a machine with more time; these take a minute or so each.
LEARNING: dict[str, dict[str, object]] = {
    "lorahub": {"max_evaluations": 40},
    "learned_cat": {"steps": 40},
    "adamerging": {"steps": 30, "batch_size": 1, "lr": 0.01},
    "regmean": {"max_tokens": 4096},
}
# Beside the defaults: the rank of tc_lora for svd, the rule that keeps private directions whole, and orthonormal
# directions, of the CP model or of all adapters, by size or not.
VARIANTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("svd", {"rank": 20}),
    ("tc_lora", {"rule": "self_weighted"}),
    ("tc_lora", {"orthogonal": True}),
    ("tc_lora_polar", {"size_power": 1.0}),
    ("tc_lora_polar", {"rank": 20}),
)
QUICK = Sizes(choose=12, report=20, held_out=8, pool=2, mix=8)


def main() -> None:
    args = parse()
    start, facts = time.monotonic(), provenance(args.shown)
    library = open_library(args.run, args.work, args.sizes, seed=args.seed)
    results = measure(library, args)
    results |= {"wall_s": round(time.monotonic() - start, 1), **facts, "threads": 1}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{results['run']}.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / f"{results['run']}.md").write_text(markdown(results))
    print(json.dumps(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished `tclora run`")
    parser.add_argument("--out", type=Path, help="where NAME.json and NAME.md go")
    parser.add_argument("--work", type=Path, help="losses are kept here (default: RUN-which-method beside the run)")
    parser.add_argument("--methods", nargs="*", help="only these, beside mean")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in (("choose", 250), ("report", 250), ("held-out", 120), ("pool", 32), ("mix", 64)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"rows at most (default {default})")
    parser.add_argument("--quick", action="store_true", help="a few rows and steps")
    args = parser.parse_args()
    args.sizes = QUICK if args.quick else Sizes(args.choose, args.report, args.held_out, args.pool, args.mix)
    args.work = args.work or args.run.with_name(f"{args.run.name}-which-method")
    # Where the run and the kept losses lie is the reader's own affair.
    given = {f"--{name}": getattr(args, name) for name in ("choose", "report", "held_out", "pool", "mix", "seed")}
    words = [f"{name.replace('_', '-')} {value}" for name, value in given.items()]
    args.shown = " ".join(["benchmarks/which_method.py", f"runs/{args.run.name}", *words])
    args.shown += " --quick" if args.quick else ""
    return args


def measure(library: RealLibrary, args: argparse.Namespace) -> dict[str, Any]:
    """All figures, `mean` first, for the others are held against it."""
    named = sorted(set(MERGE_METHODS) if args.methods is None else set(args.methods) | {"mean"})
    cases = [("mean", {})] + [(name, {}) for name in named if name != "mean"]
    cases += [(name, params) for name, params in VARIANTS if name in named]
    bench = _Bench(library, args.quick)
    rows, left_out = [], []
    for method, params in cases:
        if MERGE_METHODS.entry(method).facts.get("most_adapters"):
            continue
        try:
            rows.append(bench.row(method, params))
            print(f"{_label(method, params):28} {rows[-1]['chosen']['report']['value']:.4f}", file=sys.stderr)
        except TcLoraError as error:
            left_out.append({"method": _label(method, params), "why": str(error)})
    sizes = asdict(args.sizes) | {name: len(fold) for name, fold in library.folds.items()}
    return {
        "run": library.config.name,
        "base": Path(library.base.name).name,
        "n_adapters": len(library.adapters),
        "adapter_rank": max(shape.r for shape in library.adapters[0].shapes.values()),
        "rows": sizes,
        "seed": args.seed,
        "n_bootstrap": N_BOOTSTRAP,
        "grid": bench.grid,
        "controls": [bench.control(name, folds) for name, folds in library.controls().items()],
        "methods": rows,
        "two_adapters": _two(bench),
        "left_out": left_out,
    }


class _Bench:
    """The library, with the mean that everything is compared with."""

    def __init__(self, library: RealLibrary, quick: bool):
        self.library, self.quick, n = library, quick, len(library.adapters)
        self.grid = sorted({1 / n, *STEPS, float(n)})
        self.mean: dict[str, dict[str, Losses]] = {}
        self.mean_adapter = merge_adapters(library.adapters, "mean", workers=1).adapter

    def row(self, method: str, params: dict[str, object]) -> dict[str, Any]:
        """Merge, choose a scale, report."""
        result, learned, learn_s = self.merge(method, params)
        path = self.path(result.adapter)
        best = min(path, key=lambda scale: path[scale])
        found = {"default": self.folds(result.adapter, 1.0), "chosen": self.folds(result.adapter, best)}
        self.mean = self.mean or found
        return {
            "method": method,
            "label": _label(method, params),
            "params": params,
            "learned_from": None if learned is None else _learned(learned),
            "weight": default_weight(method, len(self.library.adapters)) if learned is None else None,
            "rank": result.out_rank,
            "relative_error": result.relative_error,
            "merge_s": round(result.wall_s, 3),
            "learn_s": None if learned is None else round(learn_s, 1),
            "norm_to_mean": norm(result.adapter) / norm(self.mean_adapter),
            "cosine_to_mean": cosine(result.adapter, self.mean_adapter),
            "losses_by_scale": {f"{scale:g}": path[scale] for scale in sorted(path)},
            "default": {"scale": 1.0} | self.figures(found["default"], self.mean["default"]),
            "chosen": {"scale": best} | self.figures(found["chosen"], self.mean["chosen"]),
        }

    def merge(self, method: str, params: dict[str, object]) -> tuple[MergeResult, Learned | None, float]:
        """Merge, after learning where the method learns."""
        if not learns(method):
            return merge_adapters(self.library.adapters, method, params=params, workers=1), None, 0.0
        start, adapters = time.monotonic(), self.library.adapters
        facts = MERGE_METHODS.entry(method).facts
        settings: dict[str, object] = {**LEARNING.get(method, {}), **params}
        if self.quick:
            settings |= {name: 2 for name in ("steps", "max_evaluations") if name in settings}
        examples = self.library.mix if facts["labelled"] else self.library.pools
        problem = LearningProblem(self.library.base, examples, 0)
        learned = learn_weights(method, adapters, problem, params=settings)
        learn_s, given = time.monotonic() - start, parse_params(method, settings)
        if learned.statistics:
            given = replace(given, statistics=learned.statistics_for(adapters))  # pyright: ignore[reportArgumentType]
            return merge_adapters(adapters, method, params=given, workers=1), learned, learn_s
        weights = learned.weights_for(adapters)
        return merge_adapters(adapters, method, params=given, adapter_weights=weights, workers=1), learned, learn_s

    def path(self, adapter: Adapter, fold: str = CHOOSE) -> dict[float, float]:
        """Losses on a fold by scale, for every scale that the search looked at."""
        return search_scale(lambda scale: self.library.losses(scaled(adapter, scale), fold).mean, self.grid)

    def folds(self, adapter: Adapter, scale: float) -> dict[str, Losses]:
        """Losses on the rows that chose nothing."""
        return {fold: self.library.losses(scaled(adapter, scale), fold) for fold in (REPORT, HELD_OUT)}

    def figures(self, found: Mapping[str, Losses], against: Mapping[str, Losses]) -> dict[str, Any]:
        """Loss and paired difference with their intervals, on both folds."""
        figures: dict[str, Any] = {}
        for fold in (REPORT, HELD_OUT):
            figures |= _figures(found[fold], against[fold], fold)
        return figures

    def control(self, name: str, folds: Mapping[str, Losses]) -> dict[str, Any]:
        """A control against the mean at scale 1 and at the mean's chosen scale."""
        return {"name": name} | {which: self.figures(folds, self.mean[which]) for which in ("default", "chosen")}


def _two(bench: _Bench) -> dict[str, Any]:
    """Methods of two adapters beside `mean` and those for any number, on the rows of the two largest clusters."""
    library, adapters = bench.library, bench.library.largest_two()
    table, against = [], {}
    for method in ("mean", "slerp", "nuslerp", "multislerp", "karcher"):
        merged = merge_adapters(adapters, method, workers=1).adapter
        path = bench.path(merged, CHOOSE_TWO)
        scales = {"default": 1.0, "chosen": min(path, key=lambda scale: path[scale])}
        found = {which: library.losses(scaled(merged, scale), REPORT_TWO) for which, scale in scales.items()}
        against = against or found
        table.append(
            {"method": method}
            | {which: {"scale": scales[which]} | _figures(found[which], against[which]) for which in scales}
        )
    return {
        "adapters": [adapter.name for adapter in adapters],
        "n_choose": len(library.folds[CHOOSE_TWO]),
        "n_report": len(library.folds[REPORT_TWO]),
        "cosine": cosine(*adapters),
        "methods": table,
    }


def _figures(losses: Losses, against: Losses, fold: str = REPORT) -> dict[str, Any]:
    """The loss and the paired difference, with their intervals."""
    drawn = {"n_bootstrap": N_BOOTSTRAP, "seed": 0}
    return {
        fold: asdict(mean_loss(losses.nats, losses.n_tokens, **drawn)),
        f"{fold}_less_mean": asdict(paired_difference(losses.nats, against.nats, losses.n_tokens, **drawn)),
    }


def _learned(learned: Learned) -> dict[str, Any]:
    figures = {"n_examples": learned.n_examples, "params": learned.params}
    return figures | {"loss_before": learned.loss_before, "loss_after": learned.loss_after}


def _label(method: str, params: Mapping[str, object]) -> str:
    return " ".join([method, *(f"{name}={value}" for name, value in params.items())])


if __name__ == "__main__":
    main()
