"""A request to extend a library, and what can be found wrong with it before any work.

In: an `ExtendRequest` and a library. Out: the settings to extend by. Refused: a library without settings, clusters or
encoder, adapters that are not those of its index, another base than it was trained on, weights that do not fit.
"""

from dataclasses import dataclass, field

from tclora.config import RunConfig, load_config
from tclora.errors import ConfigError
from tclora.merging import parse_params
from tclora.models import base_files_digest
from tclora.pipeline.extension.assign import AssignSettings, parse_threshold
from tclora.pipeline.libraries.index import Library

__all__ = ["ExtendRequest", "check_extension", "check_merge_weights", "settings_of"]


@dataclass(frozen=True)
class ExtendRequest:
    """What `tclora extend` was asked for."""

    library: str
    data: tuple[str, ...]
    out: str | None = None
    """A copy of the library to extend instead; None: the library itself."""
    assign: AssignSettings = field(default_factory=AssignSettings)
    only_new: bool = False
    """Train new clusters only; examples of the others wait in their files."""
    overrides: tuple[str, ...] = ()
    """`a.b=value` over the library's stored settings."""


def settings_of(library: Library, request: ExtendRequest) -> RunConfig:
    """The library's stored settings, with the request's changes.

    Raises:
        ConfigError: the library has none, or a change is wrong.
    """
    if library.index.config is None:
        raise _lacks(library, "the settings of a run")
    return load_config(library.root / library.index.config, list(request.overrides))


def check_extension(library: Library, config: RunConfig, request: ExtendRequest) -> None:
    """Find what is wrong before any work.

    Raises:
        TcLoraError: the request is wrong, or the library cannot be extended as it is.
    """
    parse_threshold(request.assign.threshold)
    asked = request.assign.new_clusters
    if request.assign.min_size < 1 or (asked is not None and asked < 1):
        raise ConfigError("a count is below 1", where="--min-size, --new-clusters", expected="1 or more")
    if library.index.cluster is None or not any(entry.cluster is not None for entry in library.index.adapters):
        raise _lacks(library, "clusters")
    if library.index.encoder is None:
        raise _lacks(library, "an encoder (precomputed embeddings cannot be made for new texts)")
    library.check_whole()
    _check_base(library, config)
    for merge in config.merge:
        parse_params(merge.method, merge.params)
    check_merge_weights(config, len(library.index.adapters))


def _check_base(library: Library, config: RunConfig) -> None:
    trained_on = library.index.base_digest
    if trained_on is not None and base_files_digest(config.base) != trained_on:
        raise ConfigError(
            "the base is not the one that the library was trained on",
            where=f"base.path: {config.base.path}",
            found="other files than the library's training saw",
            do="name the right one: --set base.path=FOLDER",
        )


def check_merge_weights(config: RunConfig, n_adapters: int) -> None:
    """Refuse a list of weights that is not one per adapter.

    Raises:
        ConfigError: names the merge.
    """
    for merge in config.merge:
        if not isinstance(merge.weights, str) and len(merge.weights) != n_adapters:
            raise ConfigError(
                "the weights of a merge do not match the library",
                where=f"merge '{merge.label}'",
                found=f"{len(merge.weights)} weights for {n_adapters} adapters",
                expected="one weight per adapter, uniform or size",
                do="--set merge.N.weights=uniform",
            )


def _lacks(library: Library, what: str) -> ConfigError:
    return ConfigError(
        "the library cannot be extended",
        where=library.root,
        found=f"it holds no {what.removeprefix('an ')}",
        expected="a run folder, or an import with --clusters RUN/cluster",
        do="import the adapters again with --clusters",
    )
