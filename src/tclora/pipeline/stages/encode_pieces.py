"""Which files of the encode stage are finished, before the stage as a whole is.

In: the stage's folder and key. Out: the files that an earlier attempt at the same request finished, each checked by its
digest; anything else in the folder is removed. Kept in `work/pieces.json`, which is no result.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tclora.artifacts import read_json, sha256_file, write_json
from tclora.errors import ArtifactError

__all__ = ["Pieces", "open_pieces", "read_throughput"]


@dataclass(frozen=True)
class Pieces:
    """SHA-256 of each finished file by its path in the folder, and for each matrix rows and seconds it took."""

    folder: Path
    key: str
    files: dict[str, str]
    rows: dict[str, int]
    wall_s: dict[str, float]

    def has(self, name: str) -> bool:
        """Whether a file, or all that was finished of a folder, is there."""
        return any(file == name or file.startswith(name + "/") for file in self.files)

    def with_files(self, found: dict[str, Path]) -> "Pieces":
        """These files too, by the name they have or are about to get; written down before that."""
        files = {name: sha256_file(path) for name, path in found.items()}
        return self._stored(replace(self, files=self.files | files))

    def with_matrix(self, name: str, path: Path, rows: int, wall_s: float) -> "Pieces":
        """A matrix too, moved from `path` to its name in the folder."""
        timed = replace(self, rows=self.rows | {name: rows}, wall_s=self.wall_s | {name: round(wall_s, 3)})
        pieces = timed.with_files({name: path})
        path.replace(self.folder / name)
        return pieces

    def _stored(self, pieces: "Pieces") -> "Pieces":
        write_json(_path(self.folder), {name: value for name, value in vars(pieces).items() if name != "folder"})
        return pieces


def open_pieces(folder: Path, key: str, *, whole: Sequence[str]) -> Pieces:
    """What can be kept of the folder for the request `key`.

    Args:
        whole: names on which everything else rests; if one is damaged or gone, nothing is kept.
    """
    pieces = _read(folder, key)
    if pieces is not None:
        sound = {name: digest for name, digest in pieces.files.items() if _is_sound(folder / name, digest)}
        lost = set(pieces.files) - set(sound)
        if not any(name.split("/")[0] in whole for name in lost):
            for name in lost:
                (folder / name).unlink(missing_ok=True)
            return replace(pieces, files=sound)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # Written down at once: shards that are begun now belong to this request.
    return Pieces(folder, key, {}, {}, {}).with_files({})


def read_throughput(folder: Path) -> float | None:
    """Texts per second of embedding, for one worker; None where it was not kept."""
    try:
        found = read_json(_path(folder))
        rows, wall_s = sum(found["rows"].values()), sum(found["wall_s"].values())
    except (ArtifactError, KeyError, TypeError, AttributeError):
        return None
    return round(rows / wall_s, 1) if wall_s > 0 else None


def _path(folder: Path) -> Path:
    return folder / "work" / "pieces.json"


def _read(folder: Path, key: str) -> Pieces | None:
    try:
        pieces = Pieces(folder, **read_json(_path(folder)))
    except (ArtifactError, TypeError):
        return None
    parts = (pieces.files, pieces.rows, pieces.wall_s)
    return pieces if pieces.key == key and all(isinstance(part, dict) for part in parts) else None


def _is_sound(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest
