"""A folder that appears whole or not at all.

In: where it is to be. Out: a hidden folder beside it to write into, renamed when every file is on disk. A killed
writer leaves hidden folders only; the next writer of the same place removes those, and puts back what a swap had set
aside. The kernel drops the lock of a killed writer, so nothing of a living one is ever touched.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tclora.artifacts.files import fsync_folder, named_refusals, partial_name, partial_pattern
from tclora.errors import OutputExistsError

__all__ = ["is_free", "refuse_taken", "remove_partials", "staged_folder"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def staged_folder(
    destination: Path, *, overwrite: bool = False, refuse: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes `destination` when the block ends without an error.

    With `overwrite` the old folder is removed only after the new one is complete and on disk. `refuse` raises where
    what is there by then must be spared: it is the caller's own check, made again.

    Raises:
        OutputExistsError: something is there, or came into being meanwhile, and `overwrite` is false; an empty folder
            is nothing. Or it is a place that no folder can be renamed to.
        ArtifactError: the file system refused the folder; what was there before is there still.
    """
    with named_refusals(destination):
        place = _place_of(destination)
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(place)
        refuse_taken(destination, overwrite=overwrite)
        staging = place.parent / partial_name(place.name, "new")
        staging.mkdir()
    with _held(staging):
        try:
            with _named_full_disk(destination):
                yield staging
            with named_refusals(destination):
                _fsync_tree(staging)
                refuse_taken(destination, overwrite=overwrite)
                if refuse is not None:
                    refuse()
                _swap(staging, place)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


@contextmanager
def _named_full_disk(destination: Path) -> Iterator[None]:
    """Name the output where whoever fills the folder finds no room; what else fails is not the output's."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        with named_refusals(destination):
            raise


def remove_partials(destination: Path) -> None:
    """Remove what killed writers of `destination` left beside it, and put back what a swap had set aside."""
    pattern, folder = partial_pattern(destination.name), destination.parent
    found = filter(None, map(pattern.fullmatch, sorted(os.listdir(folder)))) if folder.is_dir() else ()
    left = {match.group(): match["kind"] for match in found if not _is_held(folder / match.group())}
    for name in (name for name, kind in left.items() if kind == "old" and not destination.exists()):
        (folder / name).rename(destination)
    for name in left:
        _remove(folder / name)


def refuse_taken(destination: Path, *, overwrite: bool) -> None:
    """Refuse a place where something is; an empty folder is nothing.

    Raises:
        OutputExistsError: something is there and `overwrite` is false; or, with it too, no folder can be renamed to it.
    """
    with named_refusals(destination):
        if os.fsencode(destination).decode(errors="replace") != str(destination):
            _refuse(
                destination, "the output's name is not text", "a name in UTF-8, and a locale for it", "choose another"
            )
        if _runs_in(destination):
            # Its shell would go on in the folder that was replaced, and see nothing.
            _refuse(destination, "the output is the folder that this runs in", "a new place", "name a folder inside it")
        if destination.is_mount():
            _refuse(destination, "the output is a mount point", "a folder inside it", "choose a folder inside it")
        if not overwrite and not is_free(destination):
            _refuse(destination, "the output exists", "a new place", "choose another place, or give --overwrite")


def is_free(place: Path) -> bool:
    """Whether nothing is there, or a folder, not a link to one, with nothing in it."""
    if place.is_dir() and not place.is_symlink():
        return not any(place.iterdir())
    return not os.path.lexists(place)


def _refuse(destination: Path, what: str, expected: str, do: str) -> NoReturn:
    raise OutputExistsError(what, where=destination, expected=expected, do=do)


def _runs_in(folder: Path) -> bool:
    with suppress(OSError):
        return folder.samefile(os.curdir)
    return False


def _place_of(destination: Path) -> Path:
    """The same place with a name and a real parent, so that "." and a path through links have a folder beside them."""
    if destination.name in ("", ".."):
        return destination.resolve()
    return destination.parent.resolve() / destination.name


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder, which stays its own when it is renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # A file system without locks has one writer at a time, or none is told apart.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _swap(staging: Path, destination: Path) -> None:
    if not is_free(destination):
        # rename() cannot replace a non-empty folder, so the old one steps aside first, held as ours.
        aside = destination.parent / partial_name(destination.name, "old")
        with _held(destination):
            destination.rename(aside)
            try:
                staging.rename(destination)
            except BaseException:
                aside.rename(destination)
                raise
            _remove(aside)
    else:
        staging.rename(destination)
    fsync_folder(destination.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # A folder that may not be written to could be renamed all the same.
        with suppress(OSError):
            path.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)
