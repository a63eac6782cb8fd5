"""A thousand programs of which a quarter misbehave: none may be lost, leave anything behind, or change a verdict.

Run: `python benchmarks/sandbox_soak.py [--n 1000] [--workers 2] [--cpu-s 1]`. The honest ones are reference solutions
of MBPP with their own tests (what fails is run again alone); a tenth are endless loops, and a twentieth each take
memory, fork without end, or print 60 MB. The ideal time is what each kind takes alone, shared out over the workers.
Targets: at most 1.2 times the ideal, the harness grows by less than 100 MB, honest verdicts unchanged, no process or
file left. The last line is JSON.
"""

import argparse
import gzip
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tclora.sandbox import Limits, Outcome, Sandbox, run_many

SHARED = Path(os.environ.get("TCLORA_SHARED", "../shared"))
BAD = {
    "loop": (10, "def solution():\n    while True:\n        pass"),
    "memory": (5, "def solution():\n    held = []\n    while True:\n        held.append(bytearray(2**24))"),
    "forks": (5, "import os\ndef solution():\n    while True:\n        os.fork()"),
    "output": (5, "def solution():\n    for _ in range(60):\n        print('x' * 2**20)\n    return 1"),
}
WRONG_IN_THE_DATA = 367


def honest_rows(n: int) -> list[dict]:
    with gzip.open(SHARED / "data" / "eval" / "mbpp.jsonl.gz", "rt") as lines:
        rows = [row for row in map(json.loads, lines) if row["task_id"] != WRONG_IN_THE_DATA]
    return [rows[index % len(rows)] for index in range(n)]


def kinds_of(n: int) -> list[str]:
    kinds = [name for name, (percent, _) in BAD.items() for _ in range(n * percent // 100)]
    kinds += ["honest"] * (n - len(kinds))
    random.Random(0).shuffle(kinds)
    return kinds


def calls_of(sandbox: Sandbox, kinds: list[str]) -> list:
    rows = iter(honest_rows(kinds.count("honest")))

    def call(kind: str):
        if kind == "honest":
            row = next(rows)
            return lambda: sandbox.run_mbpp(row["code"], row["test_list"], setup=row["test_setup_code"])
        return lambda: sandbox.run_solution(BAD[kind][1])

    return [call(kind) for kind in kinds]


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alone(sandbox: Sandbox, n: int) -> dict[str, float]:
    """Mean seconds of some programs of each kind, one after the other."""
    return {kind: sum(map(seconds, calls_of(sandbox, [kind] * n))) / n for kind in ("honest", *BAD)}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processes() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}


def strangers(before: set[int]) -> list[str]:
    """Command lines of processes that came since and whose ancestor is this one, or that a jail left to init."""
    found = []
    for pid in processes() - before:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid() or (parent == 1 and any("bwrap" in word or "jail" in word for word in words)):
            found.append(" ".join(words)[:120])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpu-s", type=int, default=1)
    options = parser.parse_args()
    sandbox = Sandbox(limits=Limits(cpu_s=options.cpu_s))
    print(sandbox.level.line)
    each = alone(sandbox, 8)
    kinds = kinds_of(options.n)
    ideal = sum(each[kind] for kind in kinds) / options.workers
    calls = calls_of(sandbox, kinds)
    before, held, files = processes(), resident_bytes(), set(os.listdir(tempfile.gettempdir()))
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    start = time.perf_counter()
    outcomes: list[Outcome] = list(run_many(calls, workers=options.workers))
    took = time.perf_counter() - start
    lost = [k for k, (o, kind) in enumerate(zip(outcomes, kinds, strict=True)) if kind == "honest" and not o.passed]
    changed = [k for k in lost if calls[k]().status != outcomes[k].status]
    verdicts = {kind: Counter(o.status for o, k in zip(outcomes, kinds, strict=True) if k == kind) for kind in each}
    for kind, found in verdicts.items():
        print(f"{kind:<8} {1e3 * each[kind]:7.0f} ms alone  {dict(found)}")
    figures = {
        "n": len(outcomes),
        "wall_s": round(took, 1),
        "ratio_to_ideal": round(took / ideal, 3),
        "verdicts": {kind: dict(found) for kind, found in verdicts.items()},
        "honest_verdicts_that_differ_alone": len(changed),
        "harness_grew_bytes": resident_bytes() - held,
        "processes_left": strangers(before),
        "descriptors_gained": len(os.listdir("/proc/self/fd")) - descriptors,
        "threads_gained": threading.active_count() - threads,
        "temp_files_left": sorted(set(os.listdir(tempfile.gettempdir())) - files),
    }
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "workers": options.workers}
    print(json.dumps({"sandbox_soak": figures, "sandbox": sandbox.facts, **machine}))


if __name__ == "__main__":
    main()
