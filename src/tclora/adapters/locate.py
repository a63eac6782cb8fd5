"""From what a user types to a folder with an adapter's two files.

In: a path, or an id on the Hub. Out: a local folder, and for the Hub the commit it holds. Refused: folders without
the two files (an old pickle is named as such and never opened), and ids that cannot be fetched.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tclora.adapters.config import CONFIG_FILE
from tclora.errors import AdapterError

__all__ = ["WEIGHTS_FILE", "Located", "locate", "typed_path"]

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_LISTED = 5


@dataclass(frozen=True)
class Located:
    """What the user typed, the folder it leads to, and the commit if it came from the Hub."""

    id: str
    folder: Path
    revision: str | None = None


def typed_path(source: str | Path) -> Path:
    """The path that a user typed, `~` filled in: on the text, for a Path forgets that "./~name" begins with a dot."""
    return Path(os.path.expanduser(source))


def locate(source: str | Path, *, revision: str | None = None) -> Located:
    """Find the folder of an adapter, fetching its two files from the Hub where no such path exists.

    Raises:
        AdapterError: there is no such folder or repository, or it lacks one of the two files.
    """
    typed = str(source)
    folder = typed_path(source)
    try:
        there = os.path.lexists(folder)
    except ValueError:
        there = False
    if not there and isinstance(source, str) and _HUB_ID.fullmatch(source) and ".." not in source:
        return _fetch(source, revision)
    _check_folder(folder, typed, there)
    if revision is not None:
        raise AdapterError(
            "a folder has no revisions",
            where=folder,
            found=f"revision {revision}",
            expected="a revision with a Hub id only",
            do="leave the revision out",
        )
    return Located(typed, folder)


def _check_folder(folder: Path, typed: str, there: bool) -> None:
    if not there:
        raise AdapterError(
            "there is no such adapter",
            where=typed[:300],
            expected="a folder with adapter_config.json and adapter_model.safetensors, or a Hub id as in org/name",
            do="check the path",
        )
    if not folder.is_dir():
        found = "a link that leads nowhere" if folder.is_symlink() and not folder.exists() else "a file"
        raise AdapterError(
            "an adapter is a folder", where=folder, found=found, do="give the folder that holds its files"
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not os.path.lexists(folder / name):
            raise _missing(folder, name)


def _missing(folder: Path, name: str) -> AdapterError:
    if name == WEIGHTS_FILE and os.path.lexists(folder / PICKLE_FILE):
        return AdapterError(
            f"{PICKLE_FILE} is a pickle, which can run code when it is opened",
            where=folder,
            found=f"no {WEIGHTS_FILE}",
            expected="safetensors",
            do="if you trust where it came from, load it with PEFT and call "
            "model.save_pretrained(new_folder, safe_serialization=True)",
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        return AdapterError(
            "the adapter's folder cannot be read", where=folder, found="no permission", do="ask for it, or copy it"
        )
    inside = _adapters_inside(folder)
    advice = f"one of its sub-folders may be meant: {', '.join(inside)}" if inside else "check the path"
    return AdapterError(
        f"{name} is missing", where=folder, expected=f"both {CONFIG_FILE} and {WEIGHTS_FILE}", do=advice
    )


def _adapters_inside(folder: Path) -> list[str]:
    # PEFT saves an adapter that is not called "default" into a sub-folder of its name.
    try:
        return sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG_FILE}"))[:_LISTED]
    except OSError:
        return []


def _fetch(repo: str, revision: str | None) -> Located:
    from huggingface_hub import snapshot_download

    try:
        fetched = snapshot_download(repo, revision=revision, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE])
    except Exception as error:  # the network stack under the Hub client raises errors of several libraries
        raise AdapterError(
            f"cannot fetch {repo} from the Hub",
            where=f"revision {revision}" if revision else None,
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            expected="a folder of this name here, or a repository that can be reached",
            do="check the name and the network, or download the adapter and give its folder",
        ) from None
    folder = Path(fetched)
    _check_folder(folder, repo, True)
    # The snapshot's folder is named after the commit it holds.
    return Located(repo, folder, folder.name)
