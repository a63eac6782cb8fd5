"""Where an adapter may be written: a new place, an empty folder or, with `overwrite`, an adapter's folder.

Replacing removes what is there, so it must be something that a write could have made.
"""

from pathlib import Path

from tclora.adapters.config import CONFIG_FILE
from tclora.artifacts import is_free, refuse_taken
from tclora.errors import OutputExistsError

__all__ = ["refuse_existing"]


def refuse_existing(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken; an empty folder is not.

    Raises:
        OutputExistsError: something is there, and `overwrite` was not given or it is not an adapter's folder.
    """
    refuse_taken(folder, overwrite=overwrite)
    if not is_free(folder) and not _is_adapter_alone(folder):
        raise OutputExistsError(
            "the output exists and is not an adapter alone, so it is not replaced",
            where=folder,
            expected=f"a folder with {CONFIG_FILE} and no sub-folders",
            do="choose another place, or remove it yourself",
        )


def _is_adapter_alone(folder: Path) -> bool:
    if not folder.is_dir() or folder.is_symlink():
        return False
    return (folder / CONFIG_FILE).is_file() and not any(path.is_dir() for path in folder.iterdir())
