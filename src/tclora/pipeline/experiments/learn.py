"""What a method learns before it merges, kept on disk: learning costs minutes where a merge costs seconds.

In: an open library and a contestant. Out: the parameters and weights to merge with. What was learned lies under the
digest of the base, the adapters, the rows it read, the settings and the code of merging itself, so another version of a
method learns again. It reads training rows, never one that is scored, and their responses only where it learns from
labels. Refused: as `learn_weights`.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import tclora
from tclora.artifacts import digest_of
from tclora.config.experiment_merges import ContestantConfig
from tclora.data import Example, read_examples
from tclora.errors import ArtifactError
from tclora.evaluation.cache import adapter_digest
from tclora.merging import MERGE_METHODS, parse_params
from tclora.merging.learning import LEARNED_NAME, Learned, LearningProblem, learn_weights, read_learned, write_learned
from tclora.merging.method import Params
from tclora.pipeline.experiments.library import OpenLibrary
from tclora.pipeline.merges.learn_rows import drawn_pools, without_responses
from tclora.pipeline.progress import Progress

__all__ = ["learned_settings", "learning_rows"]

Weights = Mapping[str, tuple[float, ...]]
# What decides the value that is learned, beside the version: a method under work is not what it was.
_SOURCES = ("algebra", "merging", "models")


def learned_settings(
    library: OpenLibrary, contestant: ContestantConfig, work: Path, progress: Progress
) -> tuple[Params, Weights | None]:
    """Learn, or read what was learned; weights are None where the method keeps its own.

    Raises:
        TcLoraError: the base or the rows cannot be used by the method.
    """
    method = contestant.method or ""
    params, adapters = parse_params(method, contestant.params), library.of(contestant.of)
    examples = learning_rows(_files(library, contestant.of), contestant)
    keys = {name: [row.key for row in rows] for name, rows in examples.items()}
    asked = [method, contestant.params, contestant.learn.seed, keys, library.scorer.base_key, _sources_digest()]
    folder = work / "learned" / digest_of([*asked, [adapter_digest(adapter) for adapter in adapters]])
    learned = _read(folder)
    if learned is None:
        mixed = [row for rows in examples.values() for row in rows]
        # One set of weights for all adapters is learned from all rows; statistics of inputs are each adapter's own.
        problem = LearningProblem(library.scorer.base, mixed if _labelled(method) else examples, contestant.learn.seed)
        label = f"learn {method}"
        learned = learn_weights(
            method, adapters, problem, params=params, on_progress=lambda done, total: progress.step(label, done, total)
        )
        write_learned(learned, folder)
    return learned.settle(params, adapters)


def learning_rows(files: Mapping[str, Path], contestant: ContestantConfig) -> dict[str, list[Example]]:
    """Some training rows of each adapter, drawn by the seed; without responses unless the method learns from labels."""
    asked = contestant.learn
    rows = {name: read_examples(path) for name, path in files.items()}
    pools = drawn_pools(rows, asked.rows, asked.share, asked.seed)
    if _labelled(contestant.method or ""):
        return pools
    return {name: without_responses(pool) for name, pool in pools.items()}


def _files(library: OpenLibrary, whose: str) -> dict[str, Path]:
    """The training rows of each adapter."""
    folder = library.run.cluster if whose == "library" else library.run.controls / "data" / "random-clusters"
    return {adapter.name: folder / f"{adapter.name}.train.jsonl" for adapter in library.of(whose)}


def _read(folder: Path) -> Learned | None:
    if not (folder / LEARNED_NAME).is_file():
        return None
    try:
        return read_learned(folder)
    except ArtifactError:
        return None  # a damaged file can always be had again


def _labelled(method: str) -> bool:
    return bool(MERGE_METHODS.entry(method).facts.get("labelled"))


@cache
def _sources_digest() -> str:
    root, digest = Path(tclora.__file__).parent, hashlib.sha256()
    for path in sorted(path for package in _SOURCES for path in (root / package).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
