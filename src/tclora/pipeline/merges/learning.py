"""The part of a merge that learns: only for methods that do, and only here is a base model loaded.

In: a merge's file and, later, its adapters and settled settings. Out: the settings with what was learned in them.
Refused before any work: examples or a learned file that go unused, a method that has neither, weights beside learned
ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tclora.adapters import Adapter
from tclora.config import MergeFile
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS
from tclora.merging.learning import Learned, learns
from tclora.pipeline.merges.settings import SettledMerge, states_weights
from tclora.pipeline.progress import Progress

if TYPE_CHECKING:
    from tclora.pipeline.merges.learn import LearnSources

__all__ = ["check_learning", "learn"]


def check_learning(file: MergeFile, device: str) -> None:
    """Check that a method that learns has what it learns from, and that any other has no use for it.

    Raises:
        ConfigError: it is not so, or weights are given that the method is to learn.
    """
    if not (learns(file.merge_method) or file.examples or file.learned):
        return
    from tclora.pipeline.merges.learn import check_sources

    check_sources(file.merge_method, _sources(file, device))
    if states_weights(file) and not MERGE_METHODS.entry(file.merge_method).facts.get("takes_weights"):
        raise ConfigError(
            f"'{file.merge_method}' learns its weights",
            found="weights that are given",
            do="leave them out, or use `mean` with these; weights in overrides are taken",
        )


def learn(
    file: MergeFile, device: str, adapters: Sequence[Adapter], settled: SettledMerge, told: Progress
) -> tuple[SettledMerge, Learned | None]:
    """Let a method that learns do so, or read what it learned before; None for one that learns nothing.

    Raises:
        TcLoraError: the base or the examples cannot be used, or what was learned is of other adapters.
    """
    if not learns(settled.method):
        return settled, None
    from tclora.pipeline.merges.learn import learn_for_merge

    found = learn_for_merge(settled.method, adapters, settled.params, _sources(file, device), told)
    known = found.learned
    if known is not None and known.loss_before is not None and known.loss_after is not None:
        told.note(
            f"learned from {known.n_examples} examples: loss {known.loss_before:.4f}, then {known.loss_after:.4f}"
        )
    weights = settled.adapter_weights if found.adapter_weights is None else found.adapter_weights
    return settled.with_learned(found.params, weights), known


def _sources(file: MergeFile, device: str) -> "LearnSources":
    from tclora.pipeline.merges.learn import LearnSources

    return LearnSources(file.base_model, file.examples, file.learned, file.seed or 0, device)
