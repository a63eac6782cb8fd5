"""Ten adapters on one benchmark: `tclora evaluate` against one `lm_eval` run an adapter, as users do it.

    python benchmarks/evaluate_many.py --items 200 --adapters 10

Both sides are commands in processes of their own, on the same items (the first `--items` of the shared arc_easy,
TCLORA_SHARED), the same base in float32, the same threads and the same batch size; `lm_eval` loads base and PEFT
adapter in each run. Both commands are run again on a single item: what that takes is start-up, and the ratios without
start-up are those of the differences. Wall time is what a user waits for; CPU time counts on a machine with other work.
The last line is JSON: ratios, the largest difference of a log-likelihood in nats, and whether every choice and both
accuracies are the same. `--library` takes a folder of PEFT adapters; without it adapters of the base's shapes are made.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from machine_facts import provenance
from made_library import make_library
from tclora.models import bundled_base_path

TASK = "arc_easy"
TASK_FILES = Path(__file__).resolve().parents[1] / "examples" / "lm_eval"
BIN = Path(sys.executable).parent


def main() -> None:
    arguments = _arguments()
    facts = provenance("benchmarks/evaluate_many.py " + " ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        adapters = _adapters(arguments, folder)
        ids = {n: _data(folder / str(n), n) for n in (arguments.items, 1)}
        ours = {n: _ours(arguments, folder / str(n), adapters) for n in ids}
        theirs = [_lm_eval(arguments, folder / str(arguments.items), adapter) for adapter in adapters]
        starts = [_lm_eval(arguments, folder / "1", adapter) for adapter in adapters[: arguments.startup_runs]]
        found = _times(ours[arguments.items], ours[1], theirs, starts)
        found |= _differences(folder / str(arguments.items), adapters, ids[arguments.items])
    request = {"items": arguments.items, "adapters": len(adapters), "batch_size": arguments.batch_size}
    print(json.dumps(request | {"threads": arguments.threads} | found | {"made_with": facts}))


def _adapters(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    if arguments.library is None:
        return make_library(folder / "library", "bundled", arguments.adapters, 8)
    found = sorted(path.parent for path in arguments.library.glob("*/adapter_config.json"))
    if len(found) < arguments.adapters:
        raise SystemExit(f"{arguments.library} holds {len(found)} adapters, not {arguments.adapters}")
    return found[: arguments.adapters]


def _data(folder: Path, n: int) -> list[str]:
    """The first items in a data folder of their own, and lm-eval's task file over it; returns their ids."""
    shared = Path(os.environ.get("TCLORA_SHARED", "../shared")) / "data" / "eval" / f"{TASK}.jsonl.gz"
    with gzip.open(shared, "rt", encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(n), strict=False)]
    for name in ("eval", "tasks"):
        (folder / name).mkdir(parents=True)
    with gzip.open(folder / "eval" / f"{TASK}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines)
    for file in (TASK_FILES / f"{TASK}.yaml", TASK_FILES / "shared_rows.py"):
        (folder / "tasks" / file.name).write_text(file.read_text().replace("DATA", str(folder)))
    return [json.loads(line)["id"] for line in lines]


def _ours(arguments: argparse.Namespace, folder: Path, adapters: list[Path]) -> dict:
    named = [f"{adapter.name}={adapter}" for adapter in adapters]
    command = ["tclora", "evaluate", str(arguments.base), "--no-base", "--tasks", TASK, "--data", str(folder)]
    command += ["--out", str(folder / "ours"), "--batch-size", str(arguments.batch_size), "--dtype", "float32"]
    command += ["--threads", str(arguments.threads), "--device", "cpu", "--quiet", "--adapters", *named]
    return _run(command, folder, arguments.threads)


def _lm_eval(arguments: argparse.Namespace, folder: Path, adapter: Path) -> dict:
    model = f"pretrained={arguments.base},peft={adapter},dtype=float32"
    command = ["lm_eval", "run", "--model", "hf", "--model_args", model, "--tasks", TASK]
    command += ["--include_path", str(folder / "tasks"), "--device", "cpu", "--log_samples"]
    command += ["--batch_size", str(arguments.batch_size), "--output_path", str(folder / "lm_eval" / adapter.name)]
    return _run(command, folder, arguments.threads)


def _run(command: list[str], folder: Path, threads: int) -> dict:
    """Run a command of this environment; its wall and CPU time, children included."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    log = folder / "log.txt"
    start = time.perf_counter()
    with log.open("ab") as file:
        process = subprocess.Popen(
            [BIN / command[0], *command[1:]], env=os.environ | limits | quiet, stdout=file, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}\n{log.read_text()[-2000:]}")
    taken = {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime}
    print(command[0], folder.name, "items", {key: round(value, 2) for key, value in taken.items()}, flush=True)
    return taken


def _times(ours: dict, one_item: dict, theirs: list[dict], starts: list[dict]) -> dict:
    found: dict = {}
    for key in ("wall_s", "cpu_s"):
        name, total = key.removesuffix("_s"), sum(run[key] for run in theirs)
        start = sum(run[key] for run in starts) / len(starts)
        work, own = total - start * len(theirs), ours[key] - one_item[key]
        found |= {
            f"tclora_{key}": round(ours[key], 2),
            f"tclora_one_item_{key}": round(one_item[key], 2),
            f"lm_eval_{key}": round(total, 2),
            f"lm_eval_one_item_one_run_{key}": round(start, 2),
            f"{name}_ratio": round(total / ours[key], 2),
            # On a busy machine a run can take less than another's start-up; there is no ratio then.
            f"{name}_ratio_without_startup": round(work / own, 2) if work > 0 < own else None,
        }
    return found


def _differences(folder: Path, adapters: list[Path], ids: list[str]) -> dict:
    lines = (folder / "ours" / "items" / f"{TASK}.jsonl").read_text().splitlines()
    ours = {(row["adapter"], row["id"]): row for row in map(json.loads, lines)}
    largest, choices, accuracies, values = 0.0, True, {}, True
    for adapter in adapters:
        samples = _samples(folder / "lm_eval" / adapter.name)
        if len(samples) != len(ids):
            raise SystemExit(f"lm_eval answered {len(samples)} items of {len(ids)} with {adapter.name}")
        for sample in samples:
            mine = ours[adapter.name, ids[sample["doc_id"]]]
            sums = np.array(mine["answer"]["sums"])
            theirs = np.array([float(response[0]) for response in sample["filtered_resps"]])
            largest = max(largest, float(np.abs(sums - theirs).max()))
            choices &= int(sums.argmax()) == int(theirs.argmax())
            values &= all(mine["values"][metric] == sample[metric] for metric in ("acc", "acc_norm"))
        accuracies[adapter.name] = [
            float(np.mean([sample[metric] for sample in samples])) for metric in ("acc", "acc_norm")
        ]
    return {
        "largest_difference_nats": largest,
        "same_choices": choices,
        "same_acc_and_acc_norm_of_every_item": values,
        "acc_and_acc_norm": accuracies,
    }


def _samples(folder: Path) -> list[dict]:
    (file,) = folder.rglob(f"samples_{TASK}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--adapters", type=int, default=10)
    parser.add_argument("--library", type=Path, help="a folder of PEFT adapters of the base")
    parser.add_argument("--base", type=Path, default=bundled_base_path())
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--startup-runs", type=int, default=1, help="runs of lm_eval on one item, to be averaged")
    return parser.parse_args()


if __name__ == "__main__":
    main()
