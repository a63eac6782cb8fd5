"""An analysis at real size: ten r=16 adapters of all linear layers of a 7B base, bf16, on disk, and what reading costs.

    python benchmarks/analyse_7b.py --layers 2             half a minute, to see that it runs
    python benchmarks/analyse_7b.py                        the whole, 801 MB of adapters in --folder

`tclora analyse` (the command itself, start-up included, cold files, tables written), with its CP model and without,
against
(a) the bytes of those files read into memory: what the disk allows; and as a command of its own, start of Python and
    import of torch included, as ours includes them;
(b) the same made into tensors by safetensors.

Every side runs in its own process with the same number of threads. The adapters are made (`made_library.py`). The last
line of output is JSON.
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

from harness import evict, in_own_process, machine
from made_library import SHAPES, make_library

BASE = "mistral-7b"
CP_RANK = 20


def main() -> None:
    args = parse()
    if args.side:
        print(json.dumps({"bytes": bytes_side, "tensors": tensors_side}[args.side](args)))
        return
    adapters = make_library(args.folder, BASE, args.n, 16, layers=args.layers)
    ours = {rank: best_of(args.repeats, lambda rank=rank: tclora_side(args, adapters, rank)) for rank in (CP_RANK, 0)}
    reading = {side: best_of(args.repeats, lambda side=side: reading_side(args, side)) for side in ("bytes", "tensors")}
    report(args, ours, reading)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tclora-merge-7b")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--layers", type=int, default=SHAPES[BASE][1])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts, for every side")
    parser.add_argument("--side", choices=("bytes", "tensors"), help=argparse.SUPPRESS)
    return parser.parse_args()


def best_of(repeats: int, run) -> dict:
    runs = [run() for _ in range(repeats)]
    best = min(runs, key=lambda figures: figures["wall_s"])
    return best | {"walls_s": [round(figures["wall_s"], 3) for figures in runs]}


def tclora_side(args: argparse.Namespace, adapters: list[Path], cp_rank: int) -> dict:
    """The command, from its start to its end."""
    command = [sys.executable, "-c", "from tclora.cli import entry; entry()", "analyse"]
    command += [*map(str, adapters), "-o", str(args.folder / "analysis"), "--cp-rank", str(cp_rank)]
    command += ["--overwrite", "--quiet", "--json"]
    evict(adapters)
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    limits = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=limits)
    wall_s, after = time.perf_counter() - since, resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = json.loads(done.stdout.splitlines()[-1])
    return {
        "wall_s": wall_s,
        "analyse_s": figures["wall_s"],
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        # Kilobytes on Linux; of all children, of which the command is the largest. Mapped files count.
        "peak_bytes": after.ru_maxrss * 1024,
        "n_modules": figures["n_modules"],
        **{name: figures["total"][name] for name in ("sti_ratio", "cosine", "cp_sti_ratio", "cp_fit")},
    }


def reading_side(args: argparse.Namespace, side: str) -> dict:
    """A way of reading, and how long its process took from start to end."""
    words = {"side": side, "folder": args.folder, "n": args.n, "layers": args.layers, "threads": args.threads}
    arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    evict(make_library(args.folder, BASE, args.n, 16, layers=args.layers))
    since = time.perf_counter()
    figures = in_own_process(__file__, arguments, args.threads)
    return figures | {"command_s": time.perf_counter() - since}


def bytes_side(args: argparse.Namespace) -> dict:
    """The files as they are, one after another."""
    import torch  # noqa: F401 - a command that uses tensors has this start-up

    since = time.perf_counter()
    n_bytes = sum(len((folder / "adapter_model.safetensors").read_bytes()) for folder in folders(args))
    return {"wall_s": time.perf_counter() - since, "read_bytes": n_bytes}


def tensors_side(args: argparse.Namespace) -> dict:
    """Every tensor through safetensors, as `merge_7b.py` reads them: `load_file` would only map the bytes."""
    import torch  # noqa: F401 - imported by the first tensor otherwise
    from safetensors.torch import load

    since, n_bytes = time.perf_counter(), 0
    for folder in folders(args):
        tensors = load((folder / "adapter_model.safetensors").read_bytes())
        n_bytes += sum(tensor.nbytes for tensor in tensors.values())
    return {"wall_s": time.perf_counter() - since, "read_bytes": n_bytes}


def folders(args: argparse.Namespace) -> list[Path]:
    return [args.folder / f"adapter-{i:04d}" for i in range(args.n)]


def report(args: argparse.Namespace, ours: dict[int, dict], reading: dict[str, dict]) -> None:
    disk, tensors = reading["bytes"], reading["tensors"]
    sides = {}
    for rank, figures in ours.items():
        ratios = {
            "ratio_to_disk": figures["wall_s"] / disk["wall_s"],
            "analyse_ratio_to_disk": figures["analyse_s"] / disk["wall_s"],
            "analyse_ratio_to_safetensors": figures["analyse_s"] / tensors["wall_s"],
            "ratio_to_disk_command": figures["wall_s"] / disk["command_s"],
            "ratio_to_safetensors_command": figures["wall_s"] / tensors["command_s"],
        }
        sides[f"cp_rank_{rank}"] = figures | ratios
        print(
            f"tclora analyse --cp-rank {rank:<3} {figures['wall_s']:6.2f} s ({figures['analyse_s']:.2f} s after "
            f"start-up), {figures['cpu_s']:.1f} s of CPU, peak {figures['peak_bytes'] / 1e6:.0f} MB"
        )
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    print(f"the bytes alone           {disk['wall_s']:8.2f} s, {disk['command_s']:.2f} s as a command")
    print(f"through safetensors       {tensors['wall_s']:8.2f} s, {tensors['command_s']:.2f} s as a command")
    about = {"benchmark": "analyse_7b", "base": BASE, "n": args.n, "r": 16, "layers": args.layers}
    print(json.dumps(about | {"threads": args.threads} | sides | {"reading": reading, "machine": machine()}))


if __name__ == "__main__":
    main()
