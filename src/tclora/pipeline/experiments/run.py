"""An experiment as code: one YAML file in, one page of results out, whatever its kind.

In: the path of the file. Out: the page, its figures and pictures in the experiment's own folder and, where the file
names one, in the folder of the page. A kind is an `ExperimentKind`: its settings, what `--dry-run` says, and a function
that does the work and makes the page. Refused: an unknown kind; a folder in which another process is working.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tclora.artifacts import folder_lock
from tclora.config.experiment import ExperimentSettings, experiment_settings, read_experiment
from tclora.errors import UnknownNameError
from tclora.pipeline.progress import Progress, Silent
from tclora.reporting.experiment_page import PAGE_NAME, RESULTS_NAME, ExperimentPage, write_experiment

__all__ = [
    "ExperimentKind",
    "ExperimentResult",
    "clear_experiment",
    "load_experiment",
    "plan_experiment",
    "run_experiment",
]


@dataclass(frozen=True)
class ExperimentKind:
    """What an experiment of a kind is and does.

    `plan` says what would be done, from the settings. `run` gets the settings, a folder of its own to work in, the
    command as it is to be shown, and the progress; it keeps what it has, so that it goes on after a kill.
    """

    settings: type[ExperimentSettings]
    plan: Callable[[Any], dict[str, object]]
    run: Callable[[Any, Path, str, Progress], ExperimentPage]


@dataclass(frozen=True)
class ExperimentResult:
    """Where the results lie, and the page that was written there."""

    folder: Path
    page_folder: Path | None
    page: ExperimentPage
    wall_s: float


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> tuple[ExperimentKind, ExperimentSettings]:
    """Read an experiment's file.

    Raises:
        ConfigError: as for a run; names the file and the key.
        UnknownNameError: there is no such kind.
    """
    data = read_experiment(path, overrides)
    kind = _kind_named(str(data.get("kind", "merges")), str(path))
    return kind, experiment_settings(kind.settings, data, where=str(path))


def plan_experiment(kind: ExperimentKind, settings: ExperimentSettings) -> dict[str, object]:
    """What would be done; nothing is written."""
    head = {"name": settings.name, "kind": settings.kind, "out": settings.output, "page": settings.page}
    return head | kind.plan(settings)


def run_experiment(
    kind: ExperimentKind, settings: ExperimentSettings, *, command: str = "", progress: Progress | None = None
) -> ExperimentResult:
    """Do what is left to do and write the results.

    Raises:
        TcLoraError: as the kind's own work.
        ArtifactError: another process is using the folder.
    """
    start, work = time.monotonic(), Path(settings.output).expanduser()
    with folder_lock(work):
        page = kind.run(settings, work, command, progress or Silent())
        write_experiment(work, page)
    shown = Path(settings.page).expanduser() if settings.page else None
    if shown is not None:
        write_experiment(shown, page)
    return ExperimentResult(work, shown, page, round(time.monotonic() - start, 3))


def clear_experiment(settings: ExperimentSettings) -> None:
    """Remove what an experiment keeps in its own folder. Libraries, and losses that are shared, lie elsewhere."""
    folder = Path(settings.output).expanduser()
    for name in ("losses", "learned", "work"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in [folder / PAGE_NAME, folder / RESULTS_NAME, *folder.glob("*.svg")]:
        path.unlink(missing_ok=True)


def _merges() -> ExperimentKind:
    from tclora.config.experiment_merges import MergesSettings
    from tclora.pipeline.experiments.merges import plan_merges, run_merges

    return ExperimentKind(MergesSettings, plan_merges, run_merges)


def _planted() -> ExperimentKind:
    from tclora.config.experiment_planted import PlantedSettings
    from tclora.pipeline.experiments.planted import plan_planted, run_planted

    return ExperimentKind(PlantedSettings, plan_planted, run_planted)


def _skills() -> ExperimentKind:
    from tclora.config.experiment_skills import SkillsSettings
    from tclora.pipeline.experiments.skills import plan_skills, run_skills

    return ExperimentKind(SkillsSettings, plan_skills, run_skills)


_KINDS: Mapping[str, Callable[[], ExperimentKind]] = {"merges": _merges, "planted": _planted, "skills": _skills}
"""Each kind is imported when it is asked for, so that one that needs no base loads none."""


def _kind_named(name: str, where: str) -> ExperimentKind:
    if name not in _KINDS:
        raise UnknownNameError(
            f"there is no kind of experiment called '{name}'", where=where, expected=", ".join(_KINDS)
        )
    return _KINDS[name]()
