"""What the benchmarks of whole merges share: sides in processes of their own, cold files, and where it ran."""

import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

__all__ = ["evict", "in_own_process", "machine", "peak_bytes"]


def in_own_process(script: str, arguments: list[str], threads: int) -> dict:
    """Run a side of a benchmark; its last line of output is its figures. `threads` bounds what linear algebra takes."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    done = subprocess.run(command, env=os.environ | limits, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def evict(folders: list[Path]) -> None:
    """Drop the files of some folders from the page cache, so that reading them reads the disk."""
    os.sync()
    for file in (file for folder in folders for file in folder.iterdir()):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def machine() -> dict:
    """Hardware, versions and commit, for the record."""
    import torch

    import tclora

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": names[0] if names else platform.processor(),
        "n_cpu": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "versions": {"tclora": tclora.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": commit.stdout.strip(),
    }
