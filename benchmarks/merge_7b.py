"""A whole merge at real size: ten r=16 adapters of all linear layers of a 7B base, bf16, on disk, to one of rank 20.

    python benchmarks/merge_7b.py --layers 2 --skip-dense      half a minute, to see that it runs
    python benchmarks/merge_7b.py                              the whole, 801 MB of adapters in --folder

`tclora merge` (the command itself, start-up included, cold files) against
(a) reading those files and writing the result, cold files, fsync, tensors in memory: what the disk allows; and the
    same as a command of its own, start of Python and import of torch included, as ours includes them;
(b) PEFT's `add_weighted_adapter(combination_type="svd")` on one module of each shape, scaled by their number;
(c) TensorLy's `parafac` on the dense tensor of one module, ten sweeps, scaled by size and to the sweeps that we took.

(b) and (c) are extrapolated from measured modules and labelled so. Every side runs in its own process with the same
number of threads. The adapters are made (`made_library.py`). The last line of output is JSON.
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

from harness import evict, in_own_process, machine, peak_bytes
from made_library import SHAPES, make_library

BASE = "mistral-7b"
N_SWEEPS = 10
CP_RANK = 20


def main() -> None:
    args = parse()
    if args.side:
        print(json.dumps({"io": io_side, "peft": peft_side, "tensorly": tensorly_side}[args.side](args)))
        return
    adapters = make_library(args.folder, BASE, args.n, 16, layers=args.layers)
    ours = best_of(args.repeats, lambda: tclora_side(args, adapters))
    disk = best_of(args.repeats, lambda: timed_io(args))
    dense = {}
    if not args.skip_dense:
        dense = {side: in_own_process(__file__, passed_on(args, side), args.threads) for side in ("peft", "tensorly")}
    report(args, ours, disk, dense)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tclora-merge-7b")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--layers", type=int, default=SHAPES[BASE][1])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--method", default="tc_lora")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts, for (a) and for us")
    parser.add_argument("--skip-dense", action="store_true", help="leave out (b) and (c)")
    parser.add_argument("--side", choices=("io", "peft", "tensorly"), help=argparse.SUPPRESS)
    return parser.parse_args()


def passed_on(args: argparse.Namespace, side: str) -> list[str]:
    same = {"folder": args.folder, "n": args.n, "layers": args.layers, "threads": args.threads}
    return ["--side", side, *(word for name, value in same.items() for word in (f"--{name}", str(value)))]


def best_of(repeats: int, run) -> dict:
    runs = [run() for _ in range(repeats)]
    best = min(runs, key=lambda figures: figures["wall_s"])
    return best | {"walls_s": [round(figures["wall_s"], 3) for figures in runs]}


def timed_io(args: argparse.Namespace) -> dict:
    """Side (a), and how long its process took from start to end less the making of what it writes."""
    since = time.perf_counter()
    figures = in_own_process(__file__, passed_on(args, "io"), args.threads)
    return figures | {"command_s": time.perf_counter() - since - figures["made_s"]}


def tclora_side(args: argparse.Namespace, adapters: list[Path]) -> dict:
    """The command, from its start to its end."""
    command = [sys.executable, "-c", "from tclora.cli import entry; entry()", "merge"]
    rank = ["--cp-rank", str(CP_RANK)] if args.method == "tc_lora" else []
    out = args.folder / "merged"
    command += [*map(str, adapters), "-o", str(out), "--method", args.method, *rank]
    command += ["--device", args.device, "--overwrite", "--quiet", "--json"]
    evict(adapters)
    since = time.perf_counter()
    limits = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=limits)
    wall_s = time.perf_counter() - since
    record = json.loads((out / "merge.json").read_text())
    sweeps = [module.get("n_iter", 0) for module in record["modules"].values()]
    # Kilobytes on Linux; of all children, of which the command is the largest at this point.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    figures = json.loads(done.stdout.splitlines()[-1])
    kept = ("relative_error", "identity_error", "out_rank", "n_modules")
    return {
        "wall_s": wall_s,
        "merge_s": figures["wall_s"],
        "peak_bytes": peak,
        "mean_sweeps": sum(sweeps) / len(sweeps),
        **{name: figures[name] for name in kept},
    }


def io_side(args: argparse.Namespace) -> dict:
    """Read every tensor into memory; write tensors of the result's shapes and flush them to disk."""
    import torch
    from safetensors.torch import load, save_file

    since = time.perf_counter()
    adapters = make_library(args.folder, BASE, args.n, 16, layers=args.layers)
    shapes, _ = SHAPES[BASE]
    result = {}
    for layer in range(args.layers):
        for leaf, (d_out, d_in) in shapes.items():
            result[f"{layer}.{leaf}.a"] = torch.ones(CP_RANK, d_in, dtype=torch.bfloat16)
            result[f"{layer}.{leaf}.b"] = torch.ones(d_out, CP_RANK, dtype=torch.bfloat16)
    evict(adapters)
    made_s = time.perf_counter() - since
    since = time.perf_counter()
    for adapter in adapters:
        # The bytes are read: `load_file` would only map them.
        load((adapter / "adapter_model.safetensors").read_bytes())
    read_s = time.perf_counter() - since
    target = args.folder / "io.safetensors"
    save_file(result, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    wall_s = time.perf_counter() - since
    n_bytes = sum((adapter / "adapter_model.safetensors").stat().st_size for adapter in adapters)
    written = target.stat().st_size
    return {"wall_s": wall_s, "made_s": made_s, "read_s": read_s, "read_bytes": n_bytes, "written_bytes": written}


def peft_side(args: argparse.Namespace) -> dict:
    """PEFT's own merge of one module of each shape, at its defaults."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(args.threads)
    walls = {}
    for (d_out, d_in), _ in sorted(shape_counts(1).items()):

        class One(torch.nn.Module):
            def __init__(self, d_out=d_out, d_in=d_in):
                super().__init__()
                self.proj = torch.nn.Linear(d_in, d_out, bias=False)

            def forward(self, x):
                return self.proj(x)

        config = LoraConfig(r=16, lora_alpha=32, target_modules=["proj"], init_lora_weights=False)
        names = [f"a{i}" for i in range(args.n)]
        model = get_peft_model(One(), config, adapter_name=names[0])
        for name in names[1:]:
            model.add_adapter(name, config)
        since = time.perf_counter()
        weights = [1 / args.n] * args.n
        model.add_weighted_adapter(names, weights, "merged", combination_type="svd", svd_rank=CP_RANK)
        walls[f"{d_out}x{d_in}"] = time.perf_counter() - since
    counts = {f"{d_out}x{d_in}": count for (d_out, d_in), count in shape_counts(args.layers).items()}
    total = sum(walls[shape] * count for shape, count in counts.items())
    return {"module_wall_s": walls, "modules": counts, "extrapolated_s": total, "peak_bytes": peak_bytes()}


def tensorly_side(args: argparse.Namespace) -> dict:
    """Ten sweeps on the dense float32 tensor of the smallest module, and what that makes per entry and sweep."""
    import numpy as np
    from tensorly.decomposition import parafac

    d_out, d_in = 1024, 4096
    rng = np.random.default_rng(0)
    factors = (rng.standard_normal((d, 16, args.n), dtype=np.float32) for d in (d_out, d_in))
    tensor = np.einsum("orn,irn->oin", *factors, optimize=True)

    def sweeps_s(n: int) -> float:
        since = time.perf_counter()
        parafac(tensor, CP_RANK, n_iter_max=n, init="random", tol=0, random_state=0)
        return time.perf_counter() - since

    # The first call also pays for what is imported and laid out once; the others differ by their sweeps alone.
    sweeps_s(1)
    sweep_s = (sweeps_s(1 + N_SWEEPS) - sweeps_s(1)) / N_SWEEPS
    if sweep_s <= 0:
        raise RuntimeError("the machine was too uneven to time TensorLy's sweeps; run it again")
    entries = sum(a * b * count for (a, b), count in shape_counts(args.layers).items())
    scaled = sweep_s * entries / (d_out * d_in)
    return {"module": f"{d_out}x{d_in}", "sweep_s": sweep_s, "extrapolated_sweep_s": scaled, "peak_bytes": peak_bytes()}


def shape_counts(layers: int) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for shape in SHAPES[BASE][0].values():
        counts[shape] = counts.get(shape, 0) + layers
    return counts


def report(args: argparse.Namespace, ours: dict, disk: dict, dense: dict) -> None:
    summary = {
        "benchmark": "merge_7b",
        "base": BASE,
        "n": args.n,
        "r": 16,
        "layers": args.layers,
        "method": args.method,
        "cp_rank": CP_RANK,
        "threads": args.threads,
        "device": args.device,
        "tclora": ours,
        "disk": disk,
        "ratio_to_disk": ours["wall_s"] / disk["wall_s"],
        "merge_ratio_to_disk": ours["merge_s"] / disk["wall_s"],
        "ratio_to_disk_command": ours["wall_s"] / disk["command_s"],
    }
    print(
        f"tclora merge     {ours['wall_s']:8.2f} s ({ours['merge_s']:.2f} s after start-up), "
        f"peak {ours['peak_bytes'] / 1e6:.0f} MB, relative error {ours['relative_error']:.4f}"
    )
    print(
        f"disk alone       {disk['wall_s']:8.2f} s, ratio {summary['ratio_to_disk']:.2f} "
        f"(after start-up {summary['merge_ratio_to_disk']:.2f})"
    )
    print(f"  as a command   {disk['command_s']:8.2f} s, ratio {summary['ratio_to_disk_command']:.2f}")
    if dense:
        sweeps = ours["mean_sweeps"]
        tensorly_s = dense["tensorly"]["extrapolated_sweep_s"] * sweeps
        summary |= dense
        summary["tensorly"] |= {"sweeps": sweeps, "extrapolated_s": tensorly_s}
        summary["ratio_of_peft"] = dense["peft"]["extrapolated_s"] / ours["wall_s"]
        summary["ratio_of_tensorly"] = tensorly_s / ours["wall_s"]
        print(
            f"PEFT svd         {dense['peft']['extrapolated_s']:8.0f} s extrapolated, {summary['ratio_of_peft']:.0f}x"
        )
        print(
            f"TensorLy CP      {tensorly_s:8.0f} s extrapolated for {sweeps:.0f} sweeps, "
            f"{summary['ratio_of_tensorly']:.0f}x"
        )
    print(json.dumps(summary | {"machine": machine()}))


if __name__ == "__main__":
    main()
