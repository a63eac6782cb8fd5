"""Where things lie in a run folder, and the digest of the base model that stages depend on."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tclora.artifacts import digest_of, sha256_file
from tclora.config import BaseModelConfig
from tclora.models import bundled_base_path

__all__ = ["MULTI_TASK", "RunFolder", "base_digest", "cluster_name"]

MULTI_TASK = "multi-task"

# Base weights above this are known by size, header and ends; hashing tens of gigabytes for every run helps nobody.
_WHOLE_FILE_BYTES = 200_000_000
_END_BYTES = 1_000_000


@dataclass(frozen=True)
class RunFolder:
    """The folders of one run."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def encode(self) -> Path:
        return self.root / "encode"

    @property
    def cluster(self) -> Path:
        return self.root / "cluster"

    @property
    def library(self) -> Path:
        return self.root / "library"

    @property
    def merge(self) -> Path:
        return self.root / "merge"

    @property
    def evaluate(self) -> Path:
        return self.root / "evaluate"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie in the folder."""
        stages = (self.data, self.encode, self.cluster, self.library, self.merge, self.evaluate, self.report)
        for folder in stages:
            shutil.rmtree(folder, ignore_errors=True)


def cluster_name(index: int) -> str:
    """The name of a cluster and of its adapter."""
    return f"cluster-{index}"


def base_digest(config: BaseModelConfig) -> str:
    """A digest of the base: of its files where it is local, of id and revision where it is on the Hub."""
    folder = bundled_base_path() if config.path == "bundled" else Path(config.path).expanduser()
    if not folder.is_dir():
        return digest_of({"id": config.path, "revision": config.revision})
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".safetensors"))
    return digest_of({path.name: _file_digest(path) for path in files})


def _file_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= _WHOLE_FILE_BYTES:
        return sha256_file(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(size - _END_BYTES)
        digest.update(file.read())
    return digest.hexdigest()
