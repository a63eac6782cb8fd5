"""What makes the CP solver better for its time: starts, sweeps, acceleration, precision, and how its rounds are cut.

    python benchmarks/solver_study.py --quick                              made stacks, seconds, to see it run
    python benchmarks/solver_study.py --library RUN/library OTHER/library  the study, about twelve minutes, one thread
    python benchmarks/solver_study.py --library ... --held-out             some settings again on other stacks, two more

In: made stacks (four kinds, ten adapters of rank 4 and 16) and eight modules of each library, a folder of adapter
folders. Every way to solve runs on every stack at 10, 20 and 40 terms; a stack's best error is the lowest that anything
found on it, and a way is judged by its excess over that. CPU time is `time.process_time`, one thread.

Out: `benchmarks/results/solver_study.json`, and table and plot under `docs/results/solver-study`. `--raw` keeps every
measured number in a file, and what is in it already is not measured again. `--held-out` takes other modules and made
adapters of rank 12, and only prints.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from machine_facts import provenance
from solver_newton import gauss_newton
from solver_policies import HELD_OUT, POLICIES, Policy, run_policy
from solver_report import summarize, summarize_policies, write_report
from solver_stacks import Batch, library_batch, made_batch
from solver_variants import Trace, Variant, relative_error, run_trace, variants
from tclora.algebra import cp, cp_run
from tclora.algebra.cp_starts import make_starts
from tclora.algebra.cp_sweep import State
from tclora.algebra.slices import Slices

ROOT = Path(__file__).resolve().parents[1]
N_NORMALS, N_FEW = 20, 4
SWEEPS = (5, *range(10, 301, 10))
# Variants of small things run for fewer sweeps; Gauss-Newton begins where that many sweeps of ALS end.
SHORT, BEFORE_NEWTON, NEWTON_STEPS = 100, 20, (1, 2, 4, 8, 16, 32)
LONG = ("plain", "extrapolated", "line search", "anderson 3", "anderson 5")


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    raw = json.loads(args.raw.read_text()) if args.raw and args.raw.exists() else {"traces": {}, "policies": {}}
    for batch in batches(args):
        for cp_rank in (10,) if args.quick else (10, 20, 40):
            if batch.compressed.out_blocks.shape[2] <= cp_rank:
                continue  # solved directly: there is nothing to compare
            measure(raw, batch, cp_rank, args)
    if args.held_out:
        print(json.dumps(summarize_policies(list(raw["policies"].values()))))
        return
    summary = {"provenance": raw["provenance"], **summarize(raw)}
    if not args.quick:
        args.results.write_text(json.dumps(summary, indent=1) + "\n")
        write_report(summary, args.docs)
    print(json.dumps(summary["policies"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, nargs="*", default=[], help="folders of adapter folders")
    parser.add_argument("--quick", action="store_true", help="one small batch, few sweeps, nothing written")
    parser.add_argument("--held-out", action="store_true", help="other stacks, few settings, nothing written")
    parser.add_argument("--raw", type=Path, help="keep, and take again, every measured number")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "solver_study.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "results" / "solver-study")
    return parser.parse_args()


def batches(args: argparse.Namespace) -> list[Batch]:
    if args.quick:
        return [made_batch(r=4, d=64, per_kind=1)]
    made = [made_batch(r=12)] if args.held_out else [made_batch(r=4), made_batch(r=16)]
    return [*made, *(library_batch(folder, held_out=args.held_out) for folder in args.library)]


def measure(raw: dict[str, Any], batch: Batch, cp_rank: int, args: argparse.Namespace) -> None:
    """Every trace and every policy on one batch, unless the file has it; the file is written after each."""
    raw.setdefault("provenance", provenance(" ".join(["benchmarks/solver_study.py", "--library ..."])))
    traces = [] if args.held_out else trace_jobs(batch, cp_rank, quick=args.quick)
    policies = [policy for policy in POLICIES if policy.name in HELD_OUT or not args.held_out]
    jobs = [("traces", name, trace) for name, trace in traces]
    jobs += [("policies", policy.name, policy_job(policy, batch, cp_rank)) for policy in policies]
    for part, name, job in jobs:
        key = f"{batch.name} | {cp_rank} | {name}"
        if key in raw[part]:
            continue
        began = time.process_time()
        raw[part][key] = {"batch": batch.name, "labels": batch.labels, "cp_rank": cp_rank, "name": name, **job()}
        print(f"{key}: {time.process_time() - began:.1f} s", file=sys.stderr)
        if args.raw:
            args.raw.write_text(json.dumps(raw))


def policy_job(policy: Policy, batch: Batch, cp_rank: int):
    return lambda: run_policy(policy, batch, cp_rank)


def trace_jobs(batch: Batch, cp_rank: int, *, quick: bool):
    """Name and work of every trace of a batch: all starts with the solver's own step, few starts with every step."""
    slices, _ = cp._unit_slices(batch.compressed)
    all_starts, names = make_starts(slices, cp_rank, n_starts=N_NORMALS, seed=0)
    few = State(*(factor[:, : N_FEW + 2].contiguous() for factor in all_starts.factors()))
    single = slices.out_blocks[0].numel() >= cp._MANY
    long, short = ((10, 20), (10, 20)) if quick else (SWEEPS, tuple(k for k in SWEEPS if k <= SHORT))
    every = variants()

    def job(variant: Variant, start: State, sweeps: tuple[int, ...]):
        return lambda: as_json(run_trace(variant, slices, start, sweeps, single), names)

    yield "all starts", job(every["extrapolated"], all_starts, long)
    for name, variant in every.items():
        yield name, job(variant, few, long if name in LONG else short)
    yield "gauss-newton after 20", lambda: newton(slices, few, names)


def newton(slices: Slices, start: State, names: tuple[str, ...]) -> dict[str, Any]:
    before = run_trace(variants()["extrapolated"], slices, start, (BEFORE_NEWTON,), single=False)
    ridge = (cp_run._SHARE * before.errors[-1] ** 2).clamp(min=cp_run._LEAST_RIDGE)
    cpu_s, states = gauss_newton(slices, before.state, ridge, NEWTON_STEPS)
    times = tuple(before.cpu_s[-1] + extra for extra in cpu_s)
    errors = torch.stack([relative_error(slices, state) for state in states])
    return as_json(Trace("gauss-newton after 20", NEWTON_STEPS, times, errors, states[-1]), names) | {
        "dense_check": dense_check(slices, states[-1], errors[-1])
    }


def dense_check(slices: Slices, state: State, errors: torch.Tensor) -> float:
    """How far the errors of the first stack are from the dense float64 residual."""
    core = slices.dense(0)
    rebuilt = torch.einsum("spr,sqr,snr->spqn", *(factor[0] for factor in state.factors()))
    return float(((core - rebuilt).flatten(1).norm(dim=1) / core.norm() - errors[0]).abs().max())


def as_json(trace: Trace, names: tuple[str, ...]) -> dict[str, Any]:
    n_starts = trace.errors.shape[2]
    return {
        "sweeps": trace.sweeps,
        "cpu_s": [round(value, 6) for value in trace.cpu_s],
        "starts": names[:n_starts],
        "errors": [[[round(e, 8) for e in row] for row in rows] for rows in trace.errors.tolist()],
        "degenerate": cp._is_degenerate(trace.state).tolist(),
    }


if __name__ == "__main__":
    main()
