"""Learning before a merge: from a base model and data files, or a file of what was learned, to weights or parameters.

In: a method, its adapters and parameters, and where to learn from. Out: what to call `merge_adapters` with, and the
`Learned` to be kept beside the result. The base is loaded here and by these methods only. Refused: a method that learns
without anything to learn from; examples or a learned file for a method that learns nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tclora.adapters import Adapter
from tclora.config import BaseModelConfig
from tclora.data import read_examples
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS, parse_params
from tclora.merging.learning import Learned, LearningProblem, learn_weights, learns, read_learned
from tclora.merging.method import Params
from tclora.models import ExampleLike, load_base
from tclora.pipeline.progress import Progress, Silent

__all__ = ["LearnSources", "LearnedMerge", "check_sources", "learn_for_merge"]


@dataclass(frozen=True)
class LearnSources:
    """Where to learn from: a base and data files, or a file of what was learned.

    A data file is a pool for all adapters; written `NAME=FILE`, after an adapter's name, it is that adapter's own.
    """

    base: str | None = None
    examples: tuple[str, ...] = ()
    learned: str | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class LearnedMerge:
    """What to merge with. `adapter_weights` per module, in the order of the adapters given; None: the method's own.

    `learned` is None for a method that learns nothing.
    """

    adapter_weights: Mapping[str, tuple[float, ...]] | None
    params: Params
    learned: Learned | None


def learn_for_merge(
    method: str,
    adapters: Sequence[Adapter],
    params: Mapping[str, object] | Params,
    sources: LearnSources,
    progress: Progress | None = None,
) -> LearnedMerge:
    """Learn what `method` needs, or read it; for a method that learns nothing, hand its parameters back.

    Raises:
        ConfigError: there is nothing to learn from, or something that would go unused.
        DataError: a data file cannot be read, or has no responses where the method needs them.
        ArtifactError: the learned file is damaged.
        AdapterMismatchError: it is of other adapters, or an adapter does not fit the base.
    """
    settings = parse_params(method, params) if isinstance(params, Mapping) else params
    check_sources(method, sources)
    if not learns(method):
        return LearnedMerge(None, settings, None)
    if sources.learned is not None:
        learned = _read(method, sources.learned)
    else:
        learned = _learn(method, adapters, settings, sources, progress or Silent())
    settled, weights = learned.settle(settings, adapters)
    return LearnedMerge(weights, settled, learned)


def check_sources(method: str, sources: LearnSources) -> None:
    """Refuse, before any work, sources that `method` cannot learn from or has no use for."""
    name = MERGE_METHODS.entry(method).name
    if not learns(name):
        if sources.examples or sources.learned:
            raise ConfigError(
                f"the method '{name}' learns nothing from examples",
                found="--learned" if sources.learned else "--examples",
                expected="a method that does: " + ", ".join(other for other in MERGE_METHODS if learns(other)),
                do="leave it out, or choose another method",
            )
        return
    if sources.learned is not None and sources.examples:
        raise ConfigError("both examples and a learned file are given", do="give one of --examples and --learned")
    if sources.learned is None and (sources.base is None or not sources.examples):
        lacking = [flag for flag, value in (("--base", sources.base), ("--examples", sources.examples)) if not value]
        raise ConfigError(
            f"the method '{name}' learns from a base model and examples",
            found="no " + " and no ".join(lacking),
            expected=str(MERGE_METHODS.entry(name).facts["needs"]),
            do="give --base and --examples, or --learned FILE",
        )


def _read(method: str, path: str) -> Learned:
    learned, name = read_learned(path), MERGE_METHODS.entry(method).name
    if learned.method != name:
        raise ConfigError(
            "what was learned is of another method",
            where=path,
            found=learned.method,
            expected=name,
            do=f"use --method {learned.method}, or learn again, with --base and --examples",
        )
    return learned


def _learn(
    method: str, adapters: Sequence[Adapter], settings: Params, sources: LearnSources, told: Progress
) -> Learned:
    labelled = bool(MERGE_METHODS.entry(method).facts["labelled"])
    examples = _examples(sources.examples, [adapter.name for adapter in adapters], labelled)
    config = BaseModelConfig.model_validate({"path": sources.base, "device": sources.device})
    problem = LearningProblem(load_base(config), examples, sources.seed)
    label = f"learn {MERGE_METHODS.entry(method).name}"
    return learn_weights(
        method,
        adapters,
        problem,
        params=settings,
        on_progress=lambda done, total: told.step(label, done, total),
    )


def _examples(
    words: Sequence[str], names: Sequence[str], labelled: bool
) -> Sequence[ExampleLike] | Mapping[str, Sequence[ExampleLike]]:
    owned = [word.partition("=") for word in words if word.partition("=")[1] and word.partition("=")[0] in names]
    if not owned:
        return read_examples(list(words), require_output=labelled)
    if len(owned) < len(words):
        raise ConfigError(
            "some data files are of one adapter and some of all",
            found=", ".join(words),
            expected="NAME=FILE for every one of " + ", ".join(names) + ", or files alone",
        )
    files: dict[str, list[str]] = {}
    for name, _, path in owned:
        files.setdefault(name, []).append(path)
    return {name: read_examples(paths, require_output=labelled) for name, paths in files.items()}
