"""How time and memory of a merge grow with the number of adapters: 10 to 1,000 of one small base, on disk, in bf16.

    python benchmarks/scale_n.py --most 100         a minute, to see that it runs
    python benchmarks/scale_n.py                    1,000 adapters of rank 8 (P = 8,000 above d = 256), `tc_lora`
    python benchmarks/scale_n.py --method mean      another method

Each size runs in a process of its own. The exponent is the slope of log time against log N, of CPU time as well as of
wall time, since CPU time is less moved by what else the machine does. Peak memory is given above that of a process that
has only imported the package. For exactness, `mean` of all N adapters is compared with the dense float64 sum of a few
modules. The last line of output is JSON.
"""

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path

from harness import in_own_process, machine, peak_bytes
from made_library import make_library

SIZES = (10, 30, 100, 300, 1000)


def main() -> None:
    args = parse()
    if args.side:
        print(json.dumps(merge_side(args)))
        return
    make_library(args.folder, "small", max(n for n in SIZES if n <= args.most), args.r)
    rows = []
    for n in (n for n in SIZES if n <= args.most):
        words = ["--side", "merge", "--folder", str(args.folder), "--n", str(n), "--method", args.method]
        words += ["--r", str(args.r), "--threads", str(args.threads)]
        rows.append({"n": n} | in_own_process(__file__, words, args.threads))
        row = rows[-1]
        print(
            f"N {n:5}  wall {row['wall_s']:8.2f} s  cpu {row['cpu_s']:8.2f} s  open {row['open_s']:7.2f} s  "
            f"peak +{row['peak_above_start_bytes'] / 1e6:7.0f} MB  error {row['relative_error']:.4f}  "
            f"mean against dense {row['mean_against_dense']:.1e}"
        )
    summary = {"benchmark": "scale_n", "method": args.method, "r": args.r, "threads": args.threads, "rows": rows}
    summary |= {f"{kind}_exponent": exponent(rows, kind) for kind in ("wall_s", "cpu_s")}
    print(f"time grows as N to the {summary['wall_s_exponent']:.2f} (CPU time: {summary['cpu_s_exponent']:.2f})")
    print(json.dumps(summary | {"machine": machine()}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tclora-scale-n")
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--method", default="tc_lora")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=("merge",), help=argparse.SUPPRESS)
    return parser.parse_args()


def merge_side(args: argparse.Namespace) -> dict:
    from tclora.adapters import read_adapter, write_adapter
    from tclora.merging import merge_adapters

    folders = make_library(args.folder, "small", args.n, args.r)
    before = peak_bytes()
    wall, cpu = time.perf_counter(), time.process_time()
    adapters = [read_adapter(folder) for folder in folders]
    open_s = time.perf_counter() - wall
    with tempfile.TemporaryDirectory() as out:
        result = merge_adapters(adapters, args.method, spool=Path(out) / "spool", workers=args.threads)
        write_adapter(result.adapter, Path(out) / "merged")
    figures = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "open_s": open_s}
    figures |= {"peak_bytes": peak_bytes(), "peak_above_start_bytes": peak_bytes() - before}
    figures |= {"relative_error": result.relative_error, "n_modules": len(result.modules)}
    return figures | {"mean_against_dense": mean_against_dense(adapters)}


def mean_against_dense(adapters: list) -> float:
    """The largest relative distance of the merged mean from the dense float64 mean, over the modules of one layer."""
    from tclora.adapters import make_adapter
    from tclora.merging import merge_adapters

    names = [name for name in adapters[0].shapes if ".0." in name]
    few = [make_adapter(f"{i}", {name: a.modules[name] for name in names}) for i, a in enumerate(adapters)]
    merged = merge_adapters(few, "mean").adapter
    worst = 0.0
    for name in names:
        dense = sum(a.modules[name].delta() for a in few) / len(few)
        worst = max(worst, float((merged.modules[name].delta() - dense).norm() / dense.norm()))
    return worst


def exponent(rows: list[dict], kind: str) -> float:
    """Slope of the least-squares line of log time over log N."""
    points = [(math.log(row["n"]), math.log(row[kind])) for row in rows]
    x_mean, y_mean = (sum(values) / len(points) for values in zip(*points, strict=True))
    across = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / across if across else float("nan")


if __name__ == "__main__":
    main()
