"""A digest of a base model's files, so that stages notice another base behind the same path."""

import hashlib
from pathlib import Path

from tclora.artifacts import digest_of
from tclora.config import BaseModelConfig
from tclora.models.base import local_base_path

__all__ = ["base_files_digest", "edges_digest"]

_EDGE_BYTES = 8 * 2**20


def base_files_digest(config: BaseModelConfig) -> str:
    """Hex SHA-256 over the folder's JSON and safetensors files; over id and revision for a Hub id.

    Of a large file the size and both ends count: hashing whole weights would take longer than loading them.

    Raises:
        ConfigError: the path is written as a folder and is none.
    """
    folder = local_base_path(config)
    if folder is None:
        return digest_of([config.path, config.revision])
    names = sorted(path.name for path in folder.iterdir() if path.suffix in {".json", ".safetensors"})
    return digest_of({name: edges_digest(folder / name) for name in names})


def edges_digest(path: Path) -> str:
    """Hex SHA-256 of a file's size and of its first and last 8 MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(f"{size}\0".encode() + file.read(_EDGE_BYTES))
        if size > 2 * _EDGE_BYTES:
            file.seek(-_EDGE_BYTES, 2)
        digest.update(file.read())
    return digest.hexdigest()
