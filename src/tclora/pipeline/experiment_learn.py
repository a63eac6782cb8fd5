"""What a method learns before it merges, kept on disk: learning costs minutes where a merge costs seconds.

In: an open library and a contestant. Out: the parameters and weights to merge with. What was learned lies under the
digest of the base, the adapters, the rows it read, the settings and the code of merging itself, so another version of a
method learns again. It reads training rows, never one that is scored. Refused: as `learn_weights`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import tclora
from tclora.artifacts import digest_of
from tclora.config.experiment_merges import ContestantConfig
from tclora.data import Example, read_examples
from tclora.errors import ArtifactError
from tclora.evaluation.cache import adapter_digest
from tclora.merging import MERGE_METHODS, parse_params
from tclora.merging.learning import LEARNED_NAME, Learned, LearningProblem, learn_weights, read_learned, write_learned
from tclora.merging.method import Params
from tclora.pipeline.experiment_library import OpenLibrary
from tclora.pipeline.progress import Progress

__all__ = ["learned_settings"]

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
    examples = _examples(library, contestant)
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


def _read(folder: Path) -> Learned | None:
    if not (folder / LEARNED_NAME).is_file():
        return None
    try:
        return read_learned(folder)
    except ArtifactError:
        return None  # a damaged file can always be had again


def _labelled(method: str) -> bool:
    return bool(MERGE_METHODS.entry(method).facts.get("labelled"))


def _examples(library: OpenLibrary, contestant: ContestantConfig) -> dict[str, list[Example]]:
    """Some training rows of each adapter, drawn by the seed."""
    found = {}
    for index, adapter in enumerate(library.of(contestant.of)):
        if contestant.of == "library":
            path = library.run.cluster / f"{adapter.name}.train.jsonl"
        else:
            path = library.run.controls / "data" / "random-clusters" / f"{adapter.name}.train.jsonl"
        rows = read_examples(path)
        found[adapter.name] = _drawn(rows, contestant.learn.rows, [contestant.learn.seed, 1, index])
    return found


def _drawn(rows: Sequence[Example], k: int, key: list[int]) -> list[Example]:
    chosen = np.random.default_rng(key).permutation(len(rows))[:k]
    return [rows[int(i)] for i in sorted(chosen)]


@cache
def _sources_digest() -> str:
    root, digest = Path(tclora.__file__).parent, hashlib.sha256()
    for path in sorted(path for package in _SOURCES for path in (root / package).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
