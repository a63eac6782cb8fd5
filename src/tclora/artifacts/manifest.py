"""The manifest of a stage folder: what made it, from what, and the digest of every file. Written last.

A folder without a manifest is unfinished. A stage whose manifest carries the key of the present request, and whose
files still have the recorded digests, is skipped.
"""

import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tclora.artifacts.files import read_json, sha256_file, write_json
from tclora.errors import ArtifactError

__all__ = [
    "MANIFEST_NAME",
    "Manifest",
    "file_digests",
    "is_complete",
    "machine_facts",
    "read_manifest",
    "version_facts",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"

_PACKAGES = ("tclora", "torch", "numpy", "safetensors", "transformers", "peft", "scikit-learn", "sentence-transformers")


@dataclass(frozen=True)
class Manifest:
    """What made a folder. `key` is the digest of stage, config and inputs; `outputs` maps files to SHA-256."""

    stage: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    seed: int
    wall_s: float
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all files of `folder`."""
    write_json(folder / MANIFEST_NAME, asdict(manifest))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, or None where it is absent or damaged: both mean unfinished."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        manifest = Manifest(**read_json(path))
    except (ArtifactError, TypeError):
        return None
    names = manifest.outputs.items() if isinstance(manifest.outputs, dict) else [(None, None)]
    return manifest if all(isinstance(name, str) and isinstance(digest, str) for name, digest in names) else None


def is_complete(folder: Path, key: str) -> bool:
    """Whether `folder` was finished by the request `key` and every file still has its recorded digest."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.key != key:
        return False
    files = ((folder / name, digest) for name, digest in manifest.outputs.items())
    return all(path.is_file() and sha256_file(path) == digest for path, digest in files)


def file_digests(folder: Path, *, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file below `folder` by relative path, without the manifest, hidden files and `skip` folders."""
    result = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in skip for part in relative.parts)
        if path.is_file() and not hidden and relative.as_posix() != MANIFEST_NAME:
            result[relative.as_posix()] = sha256_file(path)
    return result


def version_facts() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, where installed."""
    facts = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return facts


def machine_facts() -> dict[str, str]:
    """The machine, in words that explain a timing."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python_executable": Path(sys.executable).name,
    }
