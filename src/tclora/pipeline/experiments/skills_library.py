"""The adapters of a skills experiment at one size and seed: of each skill, of each pair together, of the joint task.

In: settings, a size, a seed and a folder. Out: a `SkillsLibrary`, every adapter trained or found finished, the data
beside them. The multi-task adapter of a pair sees the rows of both skills and takes as many steps as both of their
adapters; the oracle is trained on joint questions, which nobody else sees. Refused: pairs that do not fit, skills with
too few questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tclora.adapters import Adapter, read_adapter
from tclora.config.experiment_skills import PairConfig, SizeConfig, SkillsSettings
from tclora.data import Example, write_examples
from tclora.models import Base
from tclora.pipeline.progress import Progress
from tclora.testbeds import SkillRow, Split, check_pair, content_rows, format_rows, joint_rows
from tclora.training import TrainJob, train_together

__all__ = ["SkillsLibrary", "check_skills", "examples_of", "train_skills"]

Numbers = tuple[tuple[Split, int], ...]


@dataclass(frozen=True)
class SkillsLibrary:
    """Where the adapters of one size and seed lie."""

    size: SizeConfig
    seed: int
    folder: Path

    def adapter(self, name: str) -> Adapter:
        """An adapter by its folder's name."""
        return self._read[name]

    @cached_property
    def _read(self) -> Mapping[str, Adapter]:
        folders = sorted(path for path in (self.folder / "adapters").iterdir() if not path.name.startswith("."))
        return {path.name: read_adapter(path) for path in folders}


def check_skills(settings: SkillsSettings) -> None:
    """Refuse what can be told to be wrong before anything is trained: pairs, and skills that run out of questions.

    Raises:
        UnknownNameError, ConfigError: names the skill.
    """
    for pair in settings.pairs:
        check_pair(pair.content, pair.format)
    for size in settings.sizes.values():
        for pair in settings.pairs:
            for format in settings.content_formats:
                check_pair(pair.content, format)
            joint: Numbers = (("train", size.n_content), ("dev", settings.n_choose), ("test", settings.n_test))
            for split, n in joint:
                joint_rows(pair.content, pair.format, level=size.level, split=split, n=n, seed=settings.seeds[0])
        for format in settings.formats:
            own: Numbers = (("train", size.n_format), ("test", settings.n_own))
            for split, n in own:
                _format_rows(settings, size, format, split, n, settings.seeds[0])


def train_skills(
    settings: SkillsSettings, size: str, seed: int, work: Path, base: Base, progress: Progress
) -> SkillsLibrary:
    """Train what is not trained yet; a killed training goes on.

    Raises:
        ConfigError, DataError: as `train_together`.
    """
    folder = work / size.replace(" ", "-") / f"seed-{seed}"
    library = SkillsLibrary(settings.sizes[size], seed, folder)
    jobs = [_job(settings, library, *one) for one in _trainings(settings, library)]
    label = f"{size}, seed {seed}"
    total = sum(job.params.max_steps or 0 for job in jobs)
    done: dict[str, int] = {}

    def step(name: str, steps: int, _: int) -> None:
        done[name] = steps
        progress.step(f"training {label}", sum(done.values()), total)

    train_together(jobs, base=base, on_step=step)
    return library


def examples_of(rows: Sequence[SkillRow]) -> list[Example]:
    """Rows as instruction examples."""
    return [Example(row.prompt, "", row.output, f"{row.content}/{row.format or 'plain'}") for row in rows]


def _trainings(settings: SkillsSettings, library: SkillsLibrary) -> list[tuple[str, list[SkillRow], int]]:
    """Name, rows and steps of every adapter."""
    size, seed = library.size, library.seed
    contents = {
        name: content_rows(
            name, level=size.level, split="train", n=size.n_content, seed=seed, formats=settings.content_formats
        )
        for name in settings.contents
    }
    formats = {name: _format_rows(settings, size, name, "train", size.n_format, seed) for name in settings.formats}
    found = [(f"content-{name}", rows, size.steps) for name, rows in contents.items()]
    found += [(f"format-{name}", rows, size.steps) for name, rows in formats.items()]
    for pair in settings.pairs:
        both = _alike_many(contents[pair.content], formats[pair.format])
        found.append((_pair_name("multi", pair), both, 2 * size.steps))
        joint = joint_rows(pair.content, pair.format, level=size.level, split="train", n=size.n_content, seed=seed)
        found.append((_pair_name("oracle", pair), joint, size.steps))
    return found


def _format_rows(
    settings: SkillsSettings, size: SizeConfig, format: str, split: Split, n: int, seed: int
) -> list[SkillRow]:
    if split != "train":  # a format's own test is of repeating words, whatever it is learned on
        return format_rows(format, split=split, n=n, seed=seed)
    contents = settings.format_contents.get(format, ())
    return format_rows(format, split=split, n=n, seed=seed, contents=contents, level=size.level)


def _alike_many(contents: list[SkillRow], formats: list[SkillRow]) -> list[SkillRow]:
    """The rows of two skills, those of the smaller one repeated, so that both are seen equally often."""
    most = max(len(contents), len(formats))
    return [rows[k % len(rows)] for rows in (contents, formats) for k in range(most)]


def _pair_name(kind: str, pair: PairConfig) -> str:
    return f"{kind}-{pair.content}-{pair.format}"


def _job(settings: SkillsSettings, library: SkillsLibrary, name: str, rows: list[SkillRow], steps: int) -> TrainJob:
    data = library.folder / "data" / f"{name}.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    write_examples(data, examples_of(rows))
    # As many epochs as the steps need; a batch at the end of an epoch is filled from the next.
    epochs = max(1, -(-steps * settings.train.batch_size // len(rows)))
    return TrainJob(
        name=name,
        base=settings.base,
        train_file=str(data),
        dev_file=None,
        out=str(library.folder / "adapters" / name),
        params=settings.train.model_copy(update={"epochs": float(epochs), "max_steps": steps}),
        seed=library.seed,
    )
