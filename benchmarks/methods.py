"""Time, memory and agreement of every merge method beside its textbook form on dense float64 matrices.

    python benchmarks/methods.py --quick                        a minute, to see that it runs
    python benchmarks/methods.py --out benchmarks/results/methods.json

One module, made adapters (half of every direction common, half their own, decaying sizes; ten of rank 16 unless told).
The package merges it at the size asked for, and again at the size at which the dense form is run, where that is
smaller. Each side has a process of its own with the same seeded adapters and `--threads` threads, and takes the best of
three runs where one takes less than a second or so, after a small factorization that loads LAPACK. Both sides start
from the factors; the package ends with factors and the dense form with a matrix. *Difference* is the Frobenius distance
of the two results over the dense one's norm; methods that end in a local optimum or cut a flat spectrum may differ
there and are compared by their own error. *MB* is how far the work raised the process above the libraries and the
adapters. The last line of output is JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CASE = (2048, 16, 10)
QUICK = (96, 4, 5)
TOKENS = 1024
REPEATS, LONG_S = 3, 3.0

# It is training on a base model that begins at a merge: there is no merge of a stack to time.
LEFT_OUT = {"distill"}


def main() -> None:
    args = parse()
    if args.side:
        print(json.dumps(run_side(args)))
        return
    from machine_facts import provenance
    from tclora.merging import MERGE_METHODS

    words = [f"--{name} {getattr(args, name)}" for name in ("d", "r", "n", "threads", "seed")]
    facts, rows = provenance(" ".join(["benchmarks/methods.py", *words])), []
    print(
        f"{'method':17}{'ours s':>10}{'at d':>7}{'ours s':>10}{'dense s':>10}"
        f"{'ratio':>9}{'difference':>12}{'MB':>6}{'MB':>7}"
    )
    for method in sorted(set(MERGE_METHODS) - LEFT_OUT) if args.methods is None else args.methods:
        rows.append(compare(args, method))
        print(line(rows[-1]), flush=True)
    finish(args, facts, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("d", "r", "n"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--out", type=Path, help="where the JSON goes, too, with a page of Markdown beside it")
    parser.add_argument("--side", choices=("ours", "dense"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name, size in zip(("d", "r", "n"), QUICK if args.quick else CASE, strict=True):
        setattr(args, name, getattr(args, name) or size)
    return args


def compare(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """Both sides of one method, and ours at the full size where the dense form is run smaller."""
    from dense_forms import DENSE

    form = DENSE.get(method)
    with tempfile.TemporaryDirectory() as folder:
        if form is None:
            return {"method": method, "ours": in_own_process(args, method, "ours", args.d, Path(folder) / "ours")}
        d = min(form.size, args.d)
        ours = in_own_process(args, method, "ours", d, Path(folder) / "ours")
        dense = in_own_process(args, method, "dense", d, Path(folder) / "dense")
        full = ours if d == args.d else in_own_process(args, method, "ours", args.d, Path(folder) / "full")
        apart = difference(Path(folder) / "ours", Path(folder) / "dense")
    return {
        "method": method,
        "ours": full,
        "compared_at_d": d,
        "ours_there": ours,
        "dense": dense,
        "time_ratio": dense["wall_s"] / ours["wall_s"],
        "difference": apart,
        "note": form.note,
    }


def in_own_process(args: argparse.Namespace, method: str, side: str, d: int, result: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, "--methods", method, "--d", str(d)]
    command += ["--result", str(result)]
    for name in ("r", "n", "seed", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads))
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_side(args: argparse.Namespace) -> dict[str, Any]:
    """Merge once or thrice, keep the result for the comparison, report time, memory and the method's own error."""
    import torch

    torch.set_num_threads(args.threads)
    torch.linalg.svd(torch.linalg.qr(torch.ones(4, 3, dtype=torch.float64))[1])
    work, keep = (ours if args.side == "ours" else dense)(args, args.methods[0])
    before, times, peak = reset_peak(), [], 0
    while len(times) < REPEATS and sum(times) < LONG_S:
        since = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - since)
        peak = peak or peak_rss()
    tensors, facts = keep(result)
    torch.save(tensors, args.result)
    return {"wall_s": min(times), "n_runs": len(times), "peak_bytes": peak, "raised_bytes": peak - before} | facts


def ours(args: argparse.Namespace, method: str):
    """The package's function on a stack of one module."""
    import torch

    from tclora.algebra import ModuleStack
    from tclora.merging import MERGE_METHODS

    name, out, into, weights, inputs = made(args, method)
    stack = ModuleStack((name,), torch.cat(out, 1)[None], torch.cat(into, 1)[None], (args.r,) * len(out))
    params = parameters(method, name, inputs)
    given = torch.tensor([weights], dtype=torch.float64)

    def keep(result):
        delta = result.delta
        facts = {"rank": delta.lora_a.shape[1], "model_error": float(result.relative_error[0])}
        return (delta.lora_b[0].double(), delta.lora_a[0].double()), facts

    return lambda: MERGE_METHODS[method](stack, params, given), keep


def dense(args: argparse.Namespace, method: str):
    """The textbook form on the same adapters."""
    from dense_forms import DENSE, Library

    name, out, into, weights, inputs = made(args, method)
    params = parameters(method, name, inputs)
    library = Library(name, out, into, weights, inputs)
    return lambda: DENSE[method].run(library, params), lambda found: ((found.matrix,), {"model_error": found.objective})


def made(args: argparse.Namespace, method: str):
    """The adapters of one module in float32, their weights, and for regmean what each adapter's module reads."""
    import torch

    from tclora.merging import MERGE_METHODS, default_weight

    facts = MERGE_METHODS.entry(method).facts
    n = min(args.n, int(str(facts.get("most_adapters", args.n))))
    generator, decay = torch.Generator().manual_seed(args.seed), torch.exp(-0.2 * torch.arange(args.r))

    def side(d: int) -> list[torch.Tensor]:
        common = torch.randn(d, args.r, generator=generator)
        own = torch.randn(n, d, args.r, generator=generator)
        return list((0.5 * common + 0.5 * own) / d**0.5)

    out, into = [columns * decay for columns in side(args.d)], side(args.d)
    tokens = TOKENS if facts.get("statistics") else 0
    inputs = [torch.randn(tokens, args.d, generator=generator) * (1 + i / n) for i in range(n if tokens else 0)]
    return "layers.0.self_attn.q_proj", out, into, [default_weight(method, n)] * n, inputs


def parameters(method: str, name: str, inputs: list) -> Any:
    """The defaults; for regmean with the statistics of the inputs."""
    from dataclasses import replace

    from tclora.merging import default_params
    from tclora.merging.learning import AdapterStatistics

    params: Any = default_params(method)
    if not inputs:
        return params
    factors = [(rows.double() / len(rows) ** 0.5).float() for rows in inputs]
    statistics = (AdapterStatistics({name: name}, {name: factor}, len(factor)) for factor in factors)
    return replace(params, statistics=tuple(statistics))


def difference(ours: Path, dense: Path) -> float:
    """Relative Frobenius distance of two kept results."""
    import torch

    (lora_b, lora_a), (matrix,) = torch.load(ours), torch.load(dense)
    return float((lora_b @ lora_a - matrix).norm() / matrix.norm())


def reset_peak() -> int:
    """Forget the peak that loading libraries left, where the system can; the resident size from which work starts."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return peak_rss()


def peak_rss() -> int:
    """The largest resident size of this process, in bytes, since it began or since the peak was reset."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def line(row: dict[str, Any]) -> str:
    full = row["ours"]
    if "dense" not in row:
        return f"{row['method']:17}{full['wall_s']:10.4f}   no dense form here"
    there, other = row["ours_there"], row["dense"]
    figures = f"{full['wall_s']:10.4f}{row['compared_at_d']:7}{there['wall_s']:10.4f}{other['wall_s']:10.3f}"
    figures += f"{row['time_ratio']:9.1f}{row['difference']:12.1e}"
    memory = f"{there['raised_bytes'] / 1e6:6.0f}{other['raised_bytes'] / 1e6:7.0f}"
    errors = (there["model_error"], other["model_error"])
    own = "" if errors[1] is None else f"  own error {errors[0]:.4f} against {errors[1]:.4f}"
    return f"{row['method']:17}{figures}{memory}{own}"


def finish(args: argparse.Namespace, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from speed_table import markdown

    summary = facts | {name: getattr(args, name) for name in ("d", "r", "n", "threads", "seed")} | {"rows": rows}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(summary, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(summary))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
