"""The settings of an experiment: one YAML file, one command, one page of results.

In: the file. Out: `ExperimentSettings` of the file's `kind`, a frozen model that the kind itself names. Every kind has
a question, a folder to work in and, where the results are to be shown, a folder for the page. Refused: what
`read_yaml` refuses, and whatever a kind's own model refuses.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tclora.config.load import read_yaml, validate
from tclora.config.schema import Count
from tclora.errors import ConfigError

__all__ = ["ExperimentSettings", "Name", "Part", "Seed", "Value", "experiment_settings", "read_experiment"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._=,+-]{0,59}$")]
Seed = Annotated[int, Field(ge=0)]
Value = bool | int | float | str | None
Kind = TypeVar("Kind", bound="ExperimentSettings")


class Part(BaseModel):
    """A part of an experiment's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExperimentSettings(Part):
    """What every kind of experiment has."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: str = "merges"
    title: str = Field(min_length=1)
    question: str = Field(min_length=1)
    """One sentence; the page begins with it."""
    output: str
    """The folder that the experiment works in. It may be thrown away; what is in it can be had again."""
    page: str | None = None
    """A folder that the page, its figures and its pictures are also written to, such as docs/results/NAME."""
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    n_bootstrap: Count = 4000
    beside: tuple[str, ...] = ()
    """Sentences for the part of the page that says what the experiment does not show."""
    folder: str = "."
    """The folder of the file itself, which its relative paths to other files start from. Set on reading."""


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain keys of the file, and the folder that it lies in.

    Raises:
        ConfigError: as for a run; a key `folder`, which is not the user's to set.
    """
    data = read_yaml(path, overrides)
    if "folder" in data:
        raise ConfigError("'folder' is not a setting", where=path, do="leave it out: it is the folder of the file")
    return {**data, "folder": str(path.parent)}


def experiment_settings(kind: type[Kind], data: dict[str, Any], *, where: str) -> Kind:
    """The keys of a file as the settings of its kind.

    Raises:
        ConfigError: names the file, the key, and the nearest known one; or a seed that stands twice.
    """
    settings = validate(kind, data, where=where)
    if len(set(settings.seeds)) < len(settings.seeds):
        raise ConfigError("a seed stands twice", where=f"{where}: seeds", found=settings.seeds)
    return settings
