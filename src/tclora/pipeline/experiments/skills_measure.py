"""Every contestant of a skills experiment on the joint questions of a pair, and every skill on its own.

In: a trained library and a base. Out: `JointScores` by contestant: whole answers, content and format, row by row.
Answers and losses are kept on disk, so a killed experiment goes on. A merge's scale is the one with the lowest loss on
joint dev questions, which are neither trained on nor tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tclora.adapters import Adapter
from tclora.config.experiment_skills import PairConfig, SkillMergeConfig, SkillsSettings
from tclora.evaluation.rows import Row, RowSet
from tclora.merging import merge_adapters
from tclora.models import Base, tokenize_example, tokenize_prompt
from tclora.pipeline.checks.cut_rank import cut_rank, largest_rank
from tclora.pipeline.experiments.adapter_arithmetic import scaled
from tclora.pipeline.experiments.losses import Scorer
from tclora.pipeline.experiments.skills_library import SkillsLibrary, examples_of
from tclora.shapes import Bool
from tclora.testbeds import SkillRow, Split, content_rows, format_rows, joint_rows, score_answer

__all__ = ["Asker", "JointScores", "measure_alone", "measure_pair"]


@dataclass(frozen=True)
class JointScores:
    """One contestant on the rows of a joint test: which answers are right as a whole, in content, and in format."""

    rank: int | None
    scale: float
    exact: Bool[np.ndarray, " n"]
    content: Bool[np.ndarray, " n"]
    format: Bool[np.ndarray, " n"]


class Asker:
    """One base load, any adapters, results kept on disk."""

    def __init__(self, base: Base, settings: SkillsSettings, cache: Path):
        self.base, self.settings = base, settings
        self._scorer = Scorer(base, cache, settings.batch_size)

    def answers(self, adapter: Adapter | None, rows: Sequence[SkillRow]) -> list[str]:
        """Greedy answers to the prompts of the rows."""
        tokens = tuple(tokenize_prompt(self.base, example) for example in examples_of(rows))
        found = self._rows(adapter, RowSet("answers", tokens, (0,) * len(rows), self.settings.max_new_tokens))
        return [str(answer) for answer in found]

    def loss(self, adapter: Adapter | None, rows: Sequence[SkillRow]) -> float:
        """Nats per response token of the rows' right answers."""
        tokens = tuple(tokenize_example(self.base, example) for example in examples_of(rows))
        pairs = [
            row for row in self._rows(adapter, RowSet("loss", tokens, (0,) * len(rows))) if not isinstance(row, str)
        ]
        return sum(nats for nats, _ in pairs) / sum(n for _, n in pairs)

    def _rows(self, adapter: Adapter | None, rows: RowSet) -> list[Row]:
        return self._scorer.rows(adapter, rows, list(range(len(rows.tokens))))


def measure_pair(asker: Asker, library: SkillsLibrary, pair: PairConfig) -> dict[str, JointScores]:
    """All contestants on the joint test of a pair."""
    settings = asker.settings
    rows = _joint(settings, library, pair, "test", settings.n_test)
    found: dict[str, JointScores] = {}
    for name, adapter in _controls(library, pair).items():
        found[name] = _scores(asker, adapter, rows, 1.0)
    for name, one in settings.contestants.items():
        merged = _merged(settings, library, pair, name, one)
        scale = _scale(asker, library, pair, merged, one)
        found[name] = _scores(asker, merged, rows, scale)
    return found


def measure_alone(asker: Asker, library: SkillsLibrary) -> dict[str, tuple[list[bool], list[bool]]]:
    """By skill: which questions of its own test its adapter gets right, and which the base does."""
    settings, level, seed = asker.settings, library.size.level, library.seed
    found: dict[str, tuple[list[bool], list[bool]]] = {}
    rows = {
        f"content-{name}": content_rows(name, level=level, split="test", n=settings.n_own, seed=seed)
        for name in settings.contents
    }
    rows |= {
        f"format-{name}": format_rows(name, split="test", n=settings.n_own, seed=seed) for name in settings.formats
    }
    for name, mine in rows.items():
        pair = [asker.answers(adapter, mine) for adapter in (library.adapter(name), None)]
        right = [[score_answer(row, text).exact for row, text in zip(mine, texts, strict=True)] for texts in pair]
        found[name.partition("-")[2]] = (right[0], right[1])
    return found


def _controls(library: SkillsLibrary, pair: PairConfig) -> Mapping[str, Adapter | None]:
    return {
        "base": None,
        "content only": library.adapter(f"content-{pair.content}"),
        "format only": library.adapter(f"format-{pair.format}"),
        "multi_task": library.adapter(f"multi-{pair.content}-{pair.format}"),
        "oracle": library.adapter(f"oracle-{pair.content}-{pair.format}"),
    }


def _merged(
    settings: SkillsSettings, library: SkillsLibrary, pair: PairConfig, name: str, one: SkillMergeConfig
) -> Adapter:
    contents, formats = ((pair.content,), (pair.format,)) if one.of == "pair" else (settings.contents, settings.formats)
    names = [*(f"content-{name}" for name in contents), *(f"format-{name}" for name in formats)]
    adapters = [library.adapter(name) for name in names]
    merged = merge_adapters(adapters, one.method or name, params=one.params, workers=1, name=name).adapter
    return merged if one.output_rank is None else cut_rank(merged, one.output_rank)[0]


def _scale(asker: Asker, library: SkillsLibrary, pair: PairConfig, merged: Adapter, one: SkillMergeConfig) -> float:
    settings = asker.settings
    if one.scale != "choose":
        return one.scale
    rows = _joint(settings, library, pair, "dev", settings.n_choose)
    losses = {scale: asker.loss(scaled(merged, scale), rows) for scale in settings.scales}
    return min(losses, key=losses.__getitem__)


def _scores(asker: Asker, adapter: Adapter | None, rows: Sequence[SkillRow], scale: float) -> JointScores:
    texts = asker.answers(None if adapter is None else scaled(adapter, scale), rows)
    scores = [score_answer(row, text) for row, text in zip(rows, texts, strict=True)]
    parts = [np.array([getattr(one, part) for one in scores], dtype=bool) for part in ("exact", "content", "format")]
    return JointScores(None if adapter is None else largest_rank(adapter), scale, *parts)


def _joint(settings: SkillsSettings, library: SkillsLibrary, pair: PairConfig, split: Split, n: int) -> list[SkillRow]:
    level = library.size.level
    return joint_rows(pair.content, pair.format, level=level, split=split, n=n, seed=library.seed)
