"""What a benchmark's result must say of where it came from: commit, machine, versions, date, command."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["cpu_name", "provenance"]

ROOT = Path(__file__).resolve().parents[1]


def provenance(command: str) -> dict[str, Any]:
    """The facts, as plain values; take them before the work, for files may change while it runs.

    `uncommitted` says whether the package's own files differ from the commit, `source_sha256` which they were.
    """
    import torch

    import tclora

    return {
        "command": f"python {command}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--", "src")),
        "source_sha256": _source_digest(),
        "versions": {"tclora": tclora.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"platform": platform.platform(), "cpu": cpu_name(), "n_cpu": os.cpu_count()},
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def _source_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "tclora").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
