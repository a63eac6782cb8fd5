"""A folder that appears whole or not at all.

In: the place where a folder of files is to be. Out: a hidden folder beside it to write into, renamed to its place
when every file is on disk. Refused: a place that is taken; with `overwrite`, one that holds anything but an adapter.
On any failure the hidden folder is removed and what was there before stays.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tclora.adapters.config import CONFIG_FILE
from tclora.artifacts import named_refusals
from tclora.errors import OutputExistsError

__all__ = ["new_folder", "refuse_existing", "write_file"]


def refuse_existing(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken; an empty folder is not.

    Raises:
        OutputExistsError: something is there, and `overwrite` was not given or it is not an adapter's folder.
    """
    if not os.path.lexists(folder) or (_is_plain_folder(folder) and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(
            "the output exists", where=folder, expected="a new place", do="choose another place, or give --overwrite"
        )
    # Replacing removes what is there, so it must be something that a write could have made.
    if (
        not _is_plain_folder(folder)
        or not (folder / CONFIG_FILE).is_file()
        or any(p.is_dir() for p in folder.iterdir())
    ):
        raise OutputExistsError(
            "the output exists and is not an adapter alone, so it is not replaced",
            where=folder,
            expected=f"a folder with {CONFIG_FILE} and no sub-folders",
            do="choose another place, or remove it yourself",
        )


@contextmanager
def new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a hidden folder beside `folder` to write into, and move it to `folder` at the end.

    Raises:
        ArtifactError: the file system refused; nothing is left behind.
    """
    # Resolved, so that "." and a path through links have a parent that the rename stays within.
    place = folder.parent.resolve() / folder.name if folder.name not in ("", "..") else folder.resolve()
    unfinished = place.parent / f".{place.name[:100]}.{secrets.token_hex(6)}.tmp"
    try:
        with named_refusals(folder):
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            unfinished.mkdir()
            yield unfinished
            _sync(unfinished)
            refuse_existing(place, overwrite=overwrite)
            _move(unfinished, place)
            _sync(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move(unfinished: Path, place: Path) -> None:
    if not place.exists() or not any(place.iterdir()):
        unfinished.rename(place)
        return
    old = unfinished.with_suffix(".old")
    place.rename(old)
    try:
        unfinished.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_plain_folder(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()
