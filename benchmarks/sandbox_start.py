"""What a jail costs: time from the call to the outcome of an empty program, against bare Python.

Run: `python benchmarks/sandbox_start.py [--n 40] [--workers 2]`. Targets: at most 60 ms over bare Python, and at least
25 programs a second on two cores. The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from tclora.sandbox import Sandbox, available, run_many

EMPTY = "def solution():\n    return 1"


def milliseconds(call, n: int) -> dict[str, float]:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return {"min_ms": round(min(times), 1), "median_ms": round(statistics.median(times), 1)}


def per_second(sandbox: Sandbox, n: int, workers: int) -> float:
    start = time.perf_counter()
    outcomes = list(run_many([lambda: sandbox.run_solution(EMPTY)] * n, workers=workers))
    assert all(outcome.passed for outcome in outcomes)
    return round(n / (time.perf_counter() - start), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    python = getattr(sys, "_base_executable", sys.executable)
    bare = [python, "-I", "-S", "-B", "-c", "pass"]
    found: dict = {"bare python": milliseconds(lambda: subprocess.run(bare, env={}, check=True), options.n)}
    for level in available():
        print(level.line)
        if level.usable:
            sandbox = Sandbox(backend=level.backend)
            found[level.backend] = {
                **milliseconds(lambda sandbox=sandbox: sandbox.run_solution(EMPTY), options.n),
                "per_second": per_second(sandbox, 3 * options.n, options.workers),
            }
    for name, figures in found.items():
        print(f"{name:<12} {figures}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "workers": options.workers}
    print(json.dumps({"sandbox_start": found, "peak_bytes": peak, **machine}))


if __name__ == "__main__":
    main()
