"""Clustering of a memory-mapped matrix: `fit_clusters` against faiss's own k-means on the same file.

    python benchmarks/cluster_1m.py --rows 1000000 --threads 2

Rows with planted clusters are made in chunks, into a temporary file. Each side runs in a process of its own: ours draws
its sample, fits and assigns every row; faiss trains on the same sampled rows with the same iterations, restarts, starts
and tolerance, then searches all rows. `wall_s` is the work alone, without imports. Rounds alternate; the shortest
counts. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import in_own_process, machine, peak_bytes

SAMPLE = 0.2


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        side = {"tclora": _ours, "faiss": _faiss}[arguments.side]
        print(json.dumps(side(Path(arguments.folder), arguments)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        make_rows(Path(folder), arguments)
        print(json.dumps(_compare(Path(folder), arguments)))


def make_rows(folder: Path, arguments: argparse.Namespace) -> None:
    """Unit rows around random directions, unequally many each; their groups beside them."""
    rng = np.random.default_rng(0)
    n, d, k = arguments.rows, arguments.dim, arguments.clusters
    centers = rng.standard_normal((k, d), dtype=np.float32)
    rows = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=arguments.dtype, shape=(n, d))
    groups = rng.choice(k, n, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    for start in range(0, n, 20_000):
        part = groups[start : start + 20_000]
        noisy = centers[part] + arguments.noise * rng.standard_normal((len(part), d), dtype=np.float32)
        rows[start : start + len(part)] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    rows.flush()
    np.save(folder / "groups.npy", groups)


def _compare(folder: Path, arguments: argparse.Namespace) -> dict:
    found: dict[str, list[dict]] = {"tclora": [], "faiss": []}
    for _ in range(arguments.rounds):
        for side, results in found.items():
            results.append(in_own_process(__file__, _flags(side, folder, arguments), arguments.threads))
            print(side, results[-1], flush=True)
    best = {side: min(results, key=lambda result: result["wall_s"]) for side, results in found.items()}
    labels = {side: np.load(folder / f"{side}.npy") for side in (*found, "groups")}
    ours, theirs = best["tclora"], best["faiss"]
    return {
        "rows": arguments.rows,
        "dim": arguments.dim,
        "clusters": arguments.clusters,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "restarts": arguments.restarts,
        "max_iter": arguments.max_iter,
        "wall_s": {side: result["wall_s"] for side, result in best.items()},
        "cpu_s": {side: result["cpu_s"] for side, result in best.items()},
        "ratio": round(ours["wall_s"] / theirs["wall_s"], 3),
        "peak_bytes": {side: result["peak_bytes"] for side, result in best.items()},
        "sample_bytes": int(arguments.rows * SAMPLE) * arguments.dim * 4,
        "above_sample_bytes": ours["peak_bytes"] - int(arguments.rows * SAMPLE) * arguments.dim * 4,
        "matrix_bytes": (folder / "rows.npy").stat().st_size,
        "agreement_ari": _agreement(labels["tclora"], labels["faiss"]),
        "planted_ari": _agreement(labels["tclora"], labels["groups"]),
        **machine(),
    }


def _flags(side: str, folder: Path, arguments: argparse.Namespace) -> list[str]:
    kept = {"rows", "dim", "clusters", "threads", "restarts", "max_iter", "dtype"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in vars(arguments).items() if name in kept]
    return [*flags, "--side", side, "--folder", str(folder)]


def _ours(folder: Path, arguments: argparse.Namespace) -> dict:
    import faiss  # noqa: F401 - what is compared is the work, not the import

    from tclora.clustering import fit_clusters
    from tclora.config import ClusterConfig

    rows = np.load(folder / "rows.npy", mmap_mode="r")
    config = ClusterConfig(
        sample_fraction=SAMPLE, n_init=arguments.restarts, max_iter=arguments.max_iter, engine="faiss"
    )
    start, cpu = time.perf_counter(), time.process_time()
    found = fit_clusters(rows, config, n_clusters=arguments.clusters, seed=0)
    facts = _facts(start, cpu) | {"inertia": found.model.inertia}
    np.save(folder / "tclora.npy", found.labels)
    return facts


def _faiss(folder: Path, arguments: argparse.Namespace) -> dict:
    import faiss

    rows = np.load(folder / "rows.npy", mmap_mode="r")
    n_sample = int(np.ceil(SAMPLE * len(rows)))
    start, cpu = time.perf_counter(), time.process_time()
    chosen = np.sort(np.random.default_rng(0).choice(len(rows), n_sample, replace=False))
    sample = np.ascontiguousarray(rows[chosen], dtype=np.float32)
    means = faiss.Kmeans(
        rows.shape[1],
        arguments.clusters,
        niter=arguments.max_iter,
        nredo=arguments.restarts,
        seed=0,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        early_stop_threshold=1e-5,
        max_points_per_centroid=n_sample,
    )
    means.train(sample)
    distances, labels = means.index.search(np.ascontiguousarray(rows, dtype=np.float32), 1)
    facts = _facts(start, cpu) | {"inertia": float(distances.mean(dtype=np.float64))}
    np.save(folder / "faiss.npy", labels[:, 0])
    return facts


def _facts(start: float, cpu: float) -> dict:
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {"wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3), "peak_bytes": _own_peak_bytes()}


def _own_peak_bytes() -> int:
    """Peak resident memory of this program alone; what `getrusage` says starts from its parent, which made the rows."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), peak_bytes())


def _agreement(one: np.ndarray, two: np.ndarray) -> float:
    from sklearn.metrics import adjusted_rand_score

    return round(float(adjusted_rand_score(one, two)), 6)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--restarts", type=int, default=10, help="starts of k-means; 10 are the paper's and our default"
    )
    parser.add_argument("--max-iter", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--noise", type=float, default=6.0, help="of each coordinate; those of a center have size 1")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--folder", default=None, help="where the temporary file is made")
    parser.add_argument("--side", choices=("tclora", "faiss"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
