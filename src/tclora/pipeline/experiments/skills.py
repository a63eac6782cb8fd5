"""Experiments of kind `skills`: two small skills, an adapter for each, and questions that need both.

In: `SkillsSettings`. Out: the page. The skills are written by this project and drawn from a seed, the base is small
enough for one core. Adapters and answers are kept as soon as they are there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tclora.config.experiment_skills import SkillsSettings
from tclora.errors import ConfigError
from tclora.evaluation.seed_draws import Draws, draw_losses, holm
from tclora.merging import parse_params
from tclora.merging.learning import learns
from tclora.models import load_base
from tclora.pipeline.experiments.skills_library import check_skills, train_skills
from tclora.pipeline.experiments.skills_measure import Asker, JointScores, measure_alone, measure_pair
from tclora.pipeline.progress import Progress
from tclora.records import Score
from tclora.records.experiment import Contrast
from tclora.records.testbeds import SkillAlone, SkillCell, SkillFigures, SkillsRecord
from tclora.reporting.experiment_page import ExperimentPage
from tclora.reporting.skills_page import skills_page

__all__ = ["plan_skills", "run_skills"]

Scores = Mapping[tuple[str, int, str], Mapping[str, JointScores]]
"""By size, seed and pair: the scores of every contestant."""


def plan_skills(settings: SkillsSettings) -> dict[str, object]:
    """What would be done, for `--dry-run`."""
    _check(settings)
    units = len(settings.contents) + len(settings.formats) + 3 * len(settings.pairs)
    steps = sum(size.steps for size in settings.sizes.values()) * units * len(settings.seeds)
    return {
        "seeds": list(settings.seeds),
        "pairs": [pair.name for pair in settings.pairs],
        "sizes": [
            f"{name}: level {size.level}, {size.n_content} and {size.n_format} rows, {size.steps} steps"
            for name, size in settings.sizes.items()
        ],
        "contestants": list(settings.everyone),
        "optimizer steps": steps,
        "answers": len(settings.seeds)
        * len(settings.sizes)
        * len(settings.pairs)
        * len(settings.everyone)
        * settings.n_test,
    }


def run_skills(settings: SkillsSettings, work: Path, command: str, progress: Progress) -> ExperimentPage:
    """Train and measure what is not there yet, and make the page.

    Raises:
        ConfigError, UnknownNameError: skills, pairs or merges that are not possible; before any training.
        TcLoraError: as training and merging.
    """
    _check(settings)
    base = load_base(settings.base)
    asker = Asker(base, settings, work / "work" / "answers")
    scores: dict[tuple[str, int, str], Mapping[str, JointScores]] = {}
    alone: dict[tuple[str, str], list[tuple[list[bool], list[bool]]]] = {}
    units = [(size, seed) for size in settings.sizes for seed in settings.seeds]
    for done, (size, seed) in enumerate(units, start=1):
        library = train_skills(settings, size, seed, work / "work", base, progress)
        for skill, right in measure_alone(asker, library).items():
            alone.setdefault((size, skill), []).append(right)
        for pair in settings.pairs:
            scores[size, seed, pair.name] = measure_pair(asker, library, pair)
        progress.step("skills, sizes and seeds", done, len(units))
    record = SkillsRecord(
        name=settings.name,
        base=base.name,
        seeds=settings.seeds,
        alone=tuple(_alone(settings, *key, right) for key, right in alone.items()),
        figures=tuple(
            figures
            for size in settings.sizes
            for label, names in _groups(settings)
            for figures in _figures(settings, scores, size, names, label)
        ),
        cells=tuple(_cell(key, name, one) for key, found in scores.items() for name, one in found.items()),
        settings=settings.model_dump(mode="json", exclude={"output", "page", "folder"}),
    )
    return skills_page(record, settings, command=command)


def _check(settings: SkillsSettings) -> None:
    check_skills(settings)
    for name, one in settings.contestants.items():
        method = one.method or name
        parse_params(method, one.params)
        if learns(method):
            raise ConfigError(
                "a merge that learns cannot take part in an experiment of kind skills",
                where=f"contestants.{name}",
                found=method,
                expected="a method that needs the adapters alone",
                do="leave it out",
            )


def _alone(
    settings: SkillsSettings, size: str, skill: str, seeds: Sequence[tuple[list[bool], list[bool]]]
) -> SkillAlone:
    drawn = _drawn(settings, [np.array(right, dtype=np.float64).T for right in seeds])
    return SkillAlone(size, skill, drawn.mean(0), drawn.mean(1))


def _groups(settings: SkillsSettings) -> list[tuple[str, list[str]]]:
    """All pairs together, and each one where there are several."""
    names = [pair.name for pair in settings.pairs]
    return [("", names), *([(name, [name]) for name in names] if len(names) > 1 else [])]


def _figures(
    settings: SkillsSettings, scores: Scores, size: str, pairs: Sequence[str], label: str
) -> list[SkillFigures]:
    """Every contestant over the seeds, the questions of the pairs together."""
    names = list(settings.everyone)
    parts = {
        part: _drawn(settings, [_matrix(scores, size, seed, pairs, part) for seed in settings.seeds])
        for part in ("exact", "content", "format")
    }
    exact, lesses = parts["exact"], _contrasts(settings, parts["exact"])
    found = []
    for k, name in enumerate(names):
        mine = [scores[size, seed, pair][name] for seed in settings.seeds for pair in pairs]
        ranks = [one.rank for one in mine if one.rank is not None]
        found.append(
            SkillFigures(
                size=size,
                pair=label,
                contestant=name,
                rank=max(ranks, default=None),
                exact=exact.mean(k),
                content=parts["content"].mean(k),
                format=parts["format"].mean(k),
                less={rival: less[name] for rival, less in lesses.items() if name in less},
                gap_closed=_gap(settings, exact, k),
                scales=tuple(one.scale for one in mine),
            )
        )
    return found


def _matrix(scores: Scores, size: str, seed: int, pairs: Sequence[str], part: str) -> np.ndarray:
    """Questions as rows, contestants as columns, 1 where right."""
    found = [[getattr(one, part) for one in scores[size, seed, pair].values()] for pair in pairs]
    return np.concatenate([np.array(columns, dtype=np.float64).T for columns in found])


def _drawn(settings: SkillsSettings, seeds: Sequence[np.ndarray]) -> Draws:
    ones = [np.ones(len(rows), dtype=np.int64) for rows in seeds]
    return draw_losses(seeds, ones, n_bootstrap=settings.n_bootstrap, seed=0)


def _contrasts(settings: SkillsSettings, draws: Draws) -> dict[str, dict[str, Contrast]]:
    """By rival and contestant, Holm's correction over the merges that are compared with the rival."""
    names = list(settings.everyone)
    found = {}
    for rival in settings.rivals:
        less = {name: draws.contrast(k, names.index(rival)) for k, name in enumerate(names) if name != rival}
        merges = [name for name in less if name in settings.contestants]
        corrected = holm([less[name].p for name in merges])
        less |= {name: replace(less[name], p_holm=p) for name, p in zip(merges, corrected, strict=True)}
        found[rival] = less
    return found


def _gap(settings: SkillsSettings, draws: Draws, column: int) -> Score | None:
    """The share of the way from one contestant to another, in wrong answers, as losses have it."""
    if settings.gap is None:
        return None
    names = list(settings.everyone)
    wrong = Draws(1 - draws.point, 1 - draws.values, draws.n_rows, draws.n_seeds)
    return wrong.gap_closed(column, names.index(settings.gap.start), names.index(settings.gap.end))


def _cell(key: tuple[str, int, str], name: str, one: JointScores) -> SkillCell:
    size, seed, pair = key
    parts = [float(values.mean()) for values in (one.exact, one.content, one.format)]
    return SkillCell(size, pair, seed, name, one.rank, one.scale, *parts, n_rows=len(one.exact))
