"""Whether the folder that a run names may hold a run: a run replaces its parts whole, so they must be a run's.

In: the run's folder. Refused: parts of it, or a `config.yaml`, that no run wrote.
"""

from pathlib import Path

from tclora.artifacts import read_manifest
from tclora.config import dump_config, load_config
from tclora.errors import OutputExistsError, TcLoraError
from tclora.pipeline.layout import RunFolder

__all__ = ["check_place"]


def check_place(run: RunFolder) -> None:
    """Refuse a folder that holds something else where a run would write.

    Raises:
        OutputExistsError: names what is there.
    """
    config = run.root / "config.yaml"
    if any(read_manifest(part) is not None for part in run.parts) or _is_stored(config):
        return
    taken = [path.name for path in (*run.parts, config) if _holds_something(path)]
    if taken:
        raise OutputExistsError(
            "the output holds what no run wrote, and a run would replace it",
            where=run.root,
            found=", ".join(taken),
            expected="a new folder, or that of a run",
            do="name another output, such as a sub-folder",
        )


def _is_stored(config: Path) -> bool:
    """Whether it is the settings that a run stores: written back they give the same text, as a user's hardly do."""
    try:
        return config.is_file() and dump_config(load_config(config)) == config.read_text(encoding="utf-8")
    except (TcLoraError, OSError):
        return False


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
