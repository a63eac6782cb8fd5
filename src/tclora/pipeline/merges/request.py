"""A request to merge, checked: adapters read (headers only), settings settled, the output free. Nothing is computed.

In: a `MergeRequest`. Out: a `PreparedMerge`. Refused before any work: unknown methods and parameters, weights and
patterns that do not fit, adapters that do not belong together or are not the ones the file names, a base they do not
fit, examples that nobody learns from, an output that is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tclora.adapters import (
    Adapter,
    check_mergeable,
    check_same_base,
    read_adapter,
    refuse_existing,
    weights_digest,
)
from tclora.config import AdapterEntry, MergeFile
from tclora.errors import AdapterMismatchError, ConfigError, UnknownNameError
from tclora.merging import MERGE_METHODS
from tclora.merging.learning import Learned
from tclora.pipeline.dtypes import torch_dtype
from tclora.pipeline.merges.base_check import base_folder, check_base
from tclora.pipeline.merges.learning import check_learning
from tclora.pipeline.merges.settings import SettledMerge, parameter_names, settle
from tclora.pipeline.progress import Progress
from tclora.pipeline.sources import refuse_twice

__all__ = ["MergeRequest", "PreparedMerge", "prepare_merge"]

_MERGEKIT_NAMES = {"linear": "`mean` here, with `normalize: true`", "dare_linear": "`dare` here"}
# mergekit's parameters that something else states here.
_MERGEKIT_PARAMETERS = {"t": "`weight`s 1 - t and t, one for each of the two adapters"}


@dataclass(frozen=True)
class MergeRequest:
    """What `tclora merge` was asked for: the merge as a file states it, and where and how to carry it out."""

    file: MergeFile
    out: str
    device: str = "auto"
    workers: int | None = None
    overwrite: bool = False
    verify: bool = False
    command: str = ""


@dataclass(frozen=True)
class PreparedMerge:
    """A request that nothing was found wrong with."""

    request: MergeRequest
    adapters: tuple[Adapter, ...]
    settled: SettledMerge
    learned: Learned | None = None


def prepare_merge(request: MergeRequest, told: Progress) -> PreparedMerge:
    """Check everything that can be checked before work.

    Raises:
        TcLoraError: the request is wrong, or an adapter is broken or unsupported.
    """
    _check_method(request.file.merge_method)
    _check_parameters(request.file)
    torch_dtype(request.file.dtype)
    check_learning(request.file, request.device)
    # A slip of the pen after -o must not cost a home folder: only an adapter may be replaced.
    refuse_existing(Path(request.out), overwrite=request.overwrite)
    sources = [entry.adapter for entry in request.file.adapters]
    _refuse_own_output(sources, request.out)
    refuse_twice(sources, do="name it once, and give it a larger weight if that is what you mean")
    adapters = tuple(_read(entry) for entry in request.file.adapters)
    check_mergeable(adapters)
    _check_number(request.file.merge_method, len(adapters))
    for warning in [*check_same_base(adapters), *check_base(adapters, request.file.base_model)]:
        told.note(warning)
    _check_forward(request)
    kinds = {path: shape.kind for adapter in adapters for path, shape in adapter.shapes.items()}
    embeddings = [path for path, kind in kinds.items() if kind == "embedding"]
    return PreparedMerge(request, adapters, settle(request.file, sorted(kinds), embeddings=embeddings))


def _check_method(name: str) -> None:
    """Refuse an unknown method; the nearest name is not always the method that was meant."""
    meant = _MERGEKIT_NAMES.get(name.replace("-", "_"))
    if meant is not None and name not in MERGE_METHODS:
        raise UnknownNameError(
            f"there is no merge method called '{name}'", do=f"mergekit's method of this name is {meant}"
        )
    MERGE_METHODS.entry(name)


def _check_parameters(file: MergeFile) -> None:
    """Say where what mergekit states in a parameter is stated here."""
    for name, here in _MERGEKIT_PARAMETERS.items():
        if name in file.parameters and name not in parameter_names(file.merge_method):
            raise ConfigError(
                f"the method '{file.merge_method}' has no parameter '{name}'",
                where=f"parameters.{name}",
                do=f"state {here}",
            )


def _check_forward(request: MergeRequest) -> None:
    """Refuse a base that `--verify` could not run, before the merge and not after it."""
    place = None if request.file.base_model is None else base_folder(request.file.base_model)
    if request.verify and place is not None:
        from tclora.models import forward_class

        forward_class(place)


def _check_number(method: str, n: int) -> None:
    """Refuse more adapters than a method can take, before any of them is read in full."""
    most = MERGE_METHODS.entry(method).facts.get("most_adapters")
    if isinstance(most, int) and n > most:
        raise ConfigError(
            f"{method} takes at most {most} adapters", found=f"{n} adapters", do="take `multislerp` or `karcher`"
        )


def _read(entry: AdapterEntry) -> Adapter:
    adapter = read_adapter(entry.adapter, revision=entry.revision)
    if entry.sha256 is not None:
        _refuse_other(entry, "sha256", "the weights", entry.sha256, weights_digest(adapter))
    if entry.config_sha256 is not None and adapter.source is not None:
        what = "the config, and so perhaps the scale,"
        _refuse_other(entry, "config_sha256", what, entry.config_sha256, adapter.source.config_sha256)
    return adapter


def _refuse_other(entry: AdapterEntry, key: str, what: str, expected: str, found: str) -> None:
    if found != expected:
        raise AdapterMismatchError(
            f"an adapter does not hold {what} that the file names",
            where=entry.adapter,
            found=f"{key} {found}",
            expected=f"{key} {expected}",
            do=f"find the adapter it was, or take its {key} out of the file to merge this one",
        )


def _refuse_own_output(sources: Sequence[str], out: str) -> None:
    for source in sources:
        place = Path(source)
        if place.exists() and Path(out).resolve().is_relative_to(place.resolve()):
            raise ConfigError("the output is one of the adapters, or inside it", where=out, do="choose another output")
