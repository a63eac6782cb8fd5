"""`export.json`: what an export holds, and where its finished adapters are expected.

In: a folder. Out: its facts, or None where it is no export. Refused: a damaged file, or one of a later release.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tclora.artifacts import read_json
from tclora.errors import ArtifactError

__all__ = ["EXPORT_FORMAT", "EXPORT_NAME", "ExportRecord", "read_export"]

EXPORT_NAME = "export.json"
EXPORT_FORMAT = 1


@dataclass(frozen=True)
class ExportRecord:
    """What was written; `adapters` say where each finished adapter is expected, relative to the export."""

    format: int
    trainer: str
    run: str
    """The run folder, as an absolute path; another machine may not have it."""
    clusters_digest: str
    base: str
    template: str
    prompts: str
    adapters: tuple[dict[str, Any], ...]
    """name, cluster, folder, n_train, n_dev, sha256 of the data file."""
    counts: dict[str, int]
    notes: tuple[str, ...] = ()


def read_export(folder: Path) -> dict[str, Any] | None:
    """The facts of an export, or None where the folder is none.

    Raises:
        ArtifactError: `export.json` is damaged, or of a later release.
    """
    path = folder / EXPORT_NAME
    if not path.is_file():
        return None
    facts = read_json(path)
    if (
        not isinstance(facts, dict)
        or facts.get("format") != EXPORT_FORMAT
        or not isinstance(facts.get("adapters"), list)
    ):
        raise ArtifactError(
            "an export cannot be read", where=path, expected=f"format {EXPORT_FORMAT}", do="export it again"
        )
    return facts
