"""What was learned, on disk: `learned.json`, and `learned.safetensors` where there are statistics or factors.

In: a `Learned` and a folder. Out: the two files, each written whole or not at all; equal values give equal bytes. Read
back they give the same merge, to the bit, without base model or examples. Refused: files that are damaged, do not
belong together, or are of another format.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tclora.adapters import LoraFactors
from tclora.adapters.stored_modules import open_tensors
from tclora.adapters.weights_file import read_header
from tclora.adapters.weights_writer import write_tensors
from tclora.artifacts import fsync_folder, partial_name, read_json, sha256_file, write_json
from tclora.errors import AdapterError, ArtifactError
from tclora.merging.learning.learned import Learned
from tclora.merging.learning.statistics import AdapterStatistics
from tclora.records import from_json, to_json

__all__ = ["LEARNED_NAME", "TENSORS_NAME", "read_learned", "write_learned"]

LEARNED_NAME, TENSORS_NAME = "learned.json", "learned.safetensors"

_FORMAT = 1
_NOT_PLAIN = ("format", "weights", "statistics", "factors", "tensors_sha256")
_SIDES = ("lora_a", "lora_b")


@dataclass(frozen=True)
class _Statistics:
    sites: dict[str, str]
    n_tokens: int


@dataclass(frozen=True)
class _File:
    """The layout of `learned.json`."""

    format: int
    method: str
    params: dict[str, object]
    base: str
    seed: int
    n_examples: int
    adapters: tuple[str, ...]
    digests: tuple[str, ...]
    loss_before: float | None
    loss_after: float | None
    weights: dict[str, tuple[float, ...]]
    statistics: tuple[_Statistics, ...]
    tensors_sha256: str | None
    factors: tuple[str, ...] = ()
    """The modules whose factors were learned."""


def write_learned(learned: Learned, folder: Path) -> None:
    """Write the files into a folder, which may exist; files of that name are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(learned)
    digest = _write_tensors(tensors, folder / TENSORS_NAME) if tensors else None
    kept = {key: value for key, value in vars(learned).items() if key not in ("weights", "statistics", "factors")}
    file = _File(
        format=_FORMAT,
        **kept,
        weights=dict(learned.weights),
        statistics=tuple(_Statistics(dict(one.sites), one.n_tokens) for one in learned.statistics),
        tensors_sha256=digest,
        factors=tuple(sorted(learned.factors)),
    )
    write_json(folder / LEARNED_NAME, to_json(file))


def read_learned(path: str | Path) -> Learned:
    """Read what `write_learned` wrote, from its folder or its `learned.json`.

    Raises:
        ArtifactError: there is no such file, it is damaged or of another format, or its tensors are not its own.
    """
    given = Path(path).expanduser()
    source = given / LEARNED_NAME if given.is_dir() else given
    file = _parsed(source)
    n = len(file.digests)
    wrong = [
        name for name, weights in file.weights.items() if len(weights) != n or not all(map(math.isfinite, weights))
    ]
    if file.format != _FORMAT or len(file.adapters) != n or wrong or len(file.statistics) not in (0, n):
        raise ArtifactError(
            "a file of learned weights cannot be used",
            where=source,
            found=f"format {file.format}, {n} adapters" + (f", wrong weights for {wrong[0]}" if wrong else ""),
            expected=f"format {_FORMAT}, one finite weight or one set of statistics per adapter",
            do="learn again, with --base and --examples",
        )
    kept = file.statistics or file.factors
    tensors = _read_tensors(source.parent / TENSORS_NAME, file.tensors_sha256) if kept else {}
    settings = {key: value for key, value in asdict(file).items() if key not in _NOT_PLAIN}
    return Learned(
        **settings,
        weights=file.weights,
        statistics=tuple(_with_tensors(one, k, tensors, source) for k, one in enumerate(file.statistics)),
        factors={name: _factors(name, tensors, source) for name in file.factors},
    )


def _parsed(source: Path) -> _File:
    data = read_json(source)
    try:
        return from_json(_File, data)
    except ArtifactError as error:
        raise ArtifactError("this is no file of learned weights", where=source, found=error) from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ArtifactError("a file of learned weights is damaged", where=source, found=str(error)[:200]) from None


def _tensors(learned: Learned) -> dict[str, Tensor]:
    sites = [(k, one, site) for k, one in enumerate(learned.statistics) for site in sorted(one.factors)]
    tensors = {f"{k}.{site}": one.factors[site] for k, one, site in sites}
    sides = [(name, side) for name in sorted(learned.factors) for side in _SIDES]
    return tensors | {f"{name}.{side}": getattr(learned.factors[name], side) for name, side in sides}


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> str:
    partial = path.with_name(partial_name(path.name))
    partial.unlink(missing_ok=True)
    try:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        write_tensors(partial, shapes, torch.float32, tensors.items())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
    return sha256_file(path)


def _read_tensors(path: Path, digest: str | None) -> dict[str, Tensor]:
    if not path.is_file() or sha256_file(path) != digest:
        raise ArtifactError(
            "the learned tensors are missing or are not those of learned.json",
            where=path,
            expected=f"the file with sha256 {digest}",
            do="copy both files again, or learn again, with --base and --examples",
        )
    try:
        names, stored = list(read_header(path)), open_tensors(path)
        return {name: stored.get_tensor(name).clone() for name in names}
    except AdapterError as error:
        raise ArtifactError("the learned tensors cannot be read", where=path, found=error.found) from None


def _with_tensors(one: _Statistics, k: int, tensors: dict[str, Tensor], source: Path) -> AdapterStatistics:
    sites = sorted(set(one.sites.values()))
    if any(f"{k}.{site}" not in tensors for site in sites):
        raise ArtifactError("statistics of a site are missing", where=source, found=f"adapter {k + 1}")
    return AdapterStatistics(one.sites, {site: tensors[f"{k}.{site}"] for site in sites}, one.n_tokens)


def _factors(name: str, tensors: dict[str, Tensor], source: Path) -> LoraFactors:
    found = [tensors.get(f"{name}.{side}") for side in _SIDES]
    if any(tensor is None for tensor in found):
        raise ArtifactError("the learned factors of a module are missing", where=source, found=name)
    return LoraFactors(*cast("list[Tensor]", found))
