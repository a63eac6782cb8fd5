"""Time and memory of a CP model of one module's adapters: tclora (compress, fit, lift) against TensorLy on the tensor.

    python benchmarks/cp_vs_tensorly.py --quick            a second or so, to see that it runs
    python benchmarks/cp_vs_tensorly.py --d-out 3072 --d-in 9216 --r 4 --n 10 --cp-rank 20      a fused projection
    python benchmarks/cp_vs_tensorly.py --d-out 2048 --d-in 2048 --r 16 --n 10 --cp-rank 20     a square one

Each side runs in a process of its own, makes the same seeded adapters, and reports the wall time of its work and the
peak resident memory of its process. tclora gets the factors, as a user has them. TensorLy gets the dense `d_out x d_in
x n` tensor (building it is not timed, and counts as memory), makes one start where tclora makes twenty-two, and stops
at the first check that finds its error at or below ours, or at the sweep cap: then its time is a lower bound and the
JSON says so. The checks are not timed. Unless told, it uses the faster of its numpy and pytorch backends in a trial of
two sweeps. Both errors are float64 residuals on the same exact core. The last line of output is JSON.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

CASES = {"default": (3072, 9216, 4, 10, 20), "quick": (192, 256, 4, 6, 10)}
CHECK_EVERY = 10


def main() -> None:
    args = parse()
    if args.side:
        print(json.dumps(run_side(args)))
        return
    ours = in_own_process(args, "tclora")
    trials = {}
    if args.backend == "auto":
        sweeps, args.sweeps = args.sweeps, 2
        for args.backend in ("numpy", "pytorch"):
            trials[args.backend] = in_own_process(args, "tensorly")["wall_s"]
        args.backend, args.sweeps = min(trials, key=trials.__getitem__), sweeps
    theirs = in_own_process(args, "tensorly", target=ours["relative_error"]) | {"backend_trials_s": trials}
    report(args, ours, theirs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("d-out", "d-in", "r", "n", "cp-rank"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="of TensorLy's tensor")
    parser.add_argument("--backend", choices=("auto", "numpy", "pytorch"), default="auto", help="of TensorLy")
    parser.add_argument("--init", choices=("random", "svd"), default="random", help="of TensorLy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweeps", type=int, default=100, help="TensorLy's cap")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--side", choices=("tclora", "tensorly"), help=argparse.SUPPRESS)
    parser.add_argument("--target", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = CASES["quick" if args.quick else "default"]
    for name, size in zip(("d_out", "d_in", "r", "n", "cp_rank"), sizes, strict=True):
        setattr(args, name, size if getattr(args, name) is None else getattr(args, name))
    return args


def in_own_process(args: argparse.Namespace, side: str, target: float = 0.0) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, "--target", repr(target)]
    for name in ("d_out", "d_in", "r", "n", "cp_rank", "threads", "dtype", "backend", "init", "seed", "sweeps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads))
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_side(args: argparse.Namespace) -> dict:
    import torch

    torch.set_num_threads(args.threads)
    return run_tclora(args) if args.side == "tclora" else run_tensorly(args)


def make_stack(args: argparse.Namespace):
    """Adapters that share half of every direction and own the other half, with decaying sizes, in float32."""
    import torch

    from tclora.algebra import ModuleStack

    generator = torch.Generator().manual_seed(args.seed)
    decay = torch.exp(-0.4 * torch.arange(args.r))

    def side(d: int) -> torch.Tensor:
        common = torch.randn(1, d, 1, args.r, generator=generator)
        own = torch.randn(1, d, args.n, args.r, generator=generator)
        return (0.5 * common + 0.5 * own) / d**0.5

    out_stack, in_stack = (side(args.d_out) * decay).flatten(2), side(args.d_in).flatten(2)
    return ModuleStack(("module",), out_stack, in_stack, (args.r,) * args.n)


def run_tclora(args: argparse.Namespace) -> dict:
    import torch

    from tclora.algebra import compress_stack, cp_als, lift

    torch.linalg.svd(torch.linalg.qr(torch.ones(4, 3, dtype=torch.float64))[1])  # loads LAPACK before the clock starts
    stack, before = make_stack(args), peak_rss()
    marks = [time.perf_counter()]
    compressed = compress_stack(stack)
    marks.append(time.perf_counter())
    fit = cp_als(compressed, args.cp_rank, seed=args.seed)
    marks.append(time.perf_counter())
    mean = fit.factors.coordinates().mean(dim=1)
    lift(compressed, fit.factors.out_factor * mean[:, None], fit.factors.in_factor)
    marks.append(time.perf_counter())
    facts = {"n_iter": int(fit.n_iter), "converged": bool(fit.converged), "degenerate": bool(fit.degenerate)}
    facts |= {"relative_error": float(fit.relative_error), "start": fit.start[0]}
    stages = dict(zip(("compress_s", "fit_s", "lift_s"), (b - a for a, b in pairwise(marks)), strict=True))
    return {"wall_s": marks[-1] - marks[0], **stages, **memory(before), **facts}


def run_tensorly(args: argparse.Namespace) -> dict:
    import numpy as np
    import tensorly
    import torch
    from tensorly.decomposition import parafac

    from tclora.algebra import compress_stack

    warnings.filterwarnings("ignore")
    stack = make_stack(args)
    core = compress_stack(stack)
    before = peak_rss()
    tensorly.set_backend(args.backend)
    dense = np.empty((args.d_out, args.d_in, args.n), dtype=args.dtype)
    for i in range(args.n):
        dense[:, :, i] = stack.delta(i)[0].numpy()
    tensor = torch.from_numpy(dense) if args.backend == "pytorch" else dense
    wall_s, sweeps, error, model = 0.0, 0, float("inf"), args.init
    while sweeps < args.sweeps and error > args.target:
        chunk, since = min(CHECK_EVERY, args.sweeps - sweeps), time.perf_counter()
        model = parafac(tensor, args.cp_rank, n_iter_max=chunk, init=model, tol=0, random_state=args.seed)
        wall_s, sweeps = wall_s + time.perf_counter() - since, sweeps + chunk
        error = true_error(core, model)
    facts = {"sweeps": sweeps, "dtype": args.dtype, "backend": args.backend, "init": args.init}
    return {"wall_s": wall_s, **memory(before), "relative_error": error, **facts}


def true_error(compressed, model) -> float:
    """The error of a full-size CP model, from its projection on the exact bases and what lies outside them."""
    import torch

    weights, factors = model
    out, into, adapter = (torch.as_tensor(f).double() for f in factors)
    adapter = adapter * torch.as_tensor(weights).double()
    small_out, small_in = compressed.out_basis[0].T @ out, compressed.in_basis[0].T @ into
    core = compressed.core[0]
    inside = core - torch.einsum("pr,qr,nr->pqn", small_out, small_in, adapter)
    gram = (adapter.T @ adapter) * (out.T @ out) * (into.T @ into)
    gram_inside = (adapter.T @ adapter) * (small_out.T @ small_out) * (small_in.T @ small_in)
    outside = (gram - gram_inside).sum().clamp(min=0)
    return float((inside.square().sum() + outside).sqrt() / core.norm())


def peak_rss() -> int:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def memory(before: int) -> dict:
    """Bytes: the process's peak, and how far the work raised it above the libraries and the adapters."""
    return {"peak_bytes": peak_rss(), "peak_above_start_bytes": peak_rss() - before}


def report(args: argparse.Namespace, ours: dict, theirs: dict) -> None:
    import tensorly
    import torch

    import tclora

    reached = theirs["relative_error"] <= ours["relative_error"]
    print(f"{args.d_out} x {args.d_in} x {args.n}, adapter rank {args.r}, {args.cp_rank} terms, {args.threads} threads")
    print(f"{'':10}{'wall s':>10}{'peak MB':>10}{'error':>12}")
    for name, side in (("tclora", ours), ("tensorly", theirs)):
        print(f"{name:10}{side['wall_s']:10.3f}{side['peak_bytes'] / 1e6:10.0f}{side['relative_error']:12.6f}")
    note = "reached" if reached else "did not reach: its time is a lower bound"
    print(f"TensorLy ({theirs['backend']}, {theirs['dtype']}, {theirs['sweeps']} sweeps) and our error: {note}")
    summary = {name: getattr(args, name) for name in ("d_out", "d_in", "n", "r", "cp_rank", "threads", "seed")}
    summary |= {"tclora": ours, "tensorly": theirs, "tensorly_reached_our_error": reached}
    summary["time_ratio"] = theirs["wall_s"] / ours["wall_s"]
    summary["peak_ratio"] = theirs["peak_bytes"] / ours["peak_bytes"]
    versions = {"tclora": tclora.__version__, "tensorly": tensorly.__version__, "torch": torch.__version__}
    summary["versions"] = versions | {"python": platform.python_version()}
    summary["machine"] = {"platform": platform.platform(), "cpu": cpu_name(), "n_cpu": os.cpu_count()}
    print(json.dumps(summary))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
