"""What a LoRA adapter is in memory: module paths to factors, with shapes known before any tensor is read.

In: factors by module path (`make_adapter`), or a folder (`tclora.adapters.peft_format`). Out: `Adapter`, a frozen
value whose `modules` may be lazy. Refused: adapters with no modules, paths that are not dotted names, factors that do
not fit each other, integer tensors, and values that are not finite.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import torch

from tclora.adapters.factors import LoraFactors, check_finite
from tclora.adapters.files import FileState, file_key, file_sha256, file_state
from tclora.errors import AdapterError

__all__ = [
    "About",
    "Adapter",
    "AdapterSource",
    "LoraFactors",
    "ModuleKind",
    "ModuleShape",
    "check_module_path",
    "content_key",
    "make_adapter",
    "weights_digest",
]

MAX_PATH_CHARACTERS = 512

_DOTTED = re.compile(r"[^\s/\\.]+(?:\.[^\s/\\.]+)*")

ModuleKind = Literal["linear", "embedding"]

if TYPE_CHECKING:
    Modules = Mapping[str, LoraFactors]
else:
    # A run-time type checker that looked at one item would read that item from disk.
    Modules = Mapping


@dataclass(frozen=True)
class ModuleShape:
    """The shape of one module's update, known without reading its tensors."""

    d_out: int
    d_in: int
    r: int
    kind: ModuleKind = "linear"


@dataclass(frozen=True)
class AdapterSource:
    """Where an adapter was read from: what the user typed, the folder it led to, and digests of its two files."""

    id: str
    folder: str
    revision: str | None
    config_sha256: str
    state: FileState | None = None
    """Of `adapter_model.safetensors` when it was opened."""

    @property
    def weights_sha256(self) -> str:
        """The sha256 of `adapter_model.safetensors`, computed when first asked for.

        Raises:
            AdapterError: the file is not the one that was opened any more.
        """
        digest = file_sha256(Path(self.folder) / "adapter_model.safetensors")
        self.check_unchanged()
        return digest

    def check_unchanged(self) -> None:
        """Refuse weights that were replaced or written to since they were opened.

        Raises:
            AdapterError: they were.
        """
        if self.state is not None and file_state(Path(self.folder) / "adapter_model.safetensors") != self.state:
            raise AdapterError(
                "adapter_model.safetensors was changed while it was in use",
                where=self.folder,
                do="run it again when nobody writes to it",
            )


class About(TypedDict, total=False):
    """The optional fields of an `Adapter`, for `make_adapter`."""

    base_model: str | None
    base_revision: str | None
    task_type: str | None
    source: AdapterSource | None
    notes: tuple[str, ...]
    narrow_leaves: frozenset[str]


@dataclass(frozen=True, eq=False)
class Adapter:
    """All deltas of one trained LoRA, by module path, with its name and base.

    `modules` and `shapes` have the same keys in sorted order. An adapter read from disk reads a module's tensors
    when that module is asked for, and only then; `shapes` never reads a tensor. `narrow_leaves` are last parts of its
    module paths, as in `q_proj`, that it was not trained on wherever the base has them.
    """

    name: str
    modules: Modules
    shapes: Mapping[str, ModuleShape]
    base_model: str | None = None
    base_revision: str | None = None
    task_type: str | None = None
    source: AdapterSource | None = None
    notes: tuple[str, ...] = ()
    narrow_leaves: frozenset[str] = frozenset()


def make_adapter(
    name: str,
    modules: Mapping[str, LoraFactors],
    *,
    embeddings: Collection[str] = (),
    **about: Unpack[About],
) -> Adapter:
    """Make an adapter from factors in memory, deriving its shapes and checking its values.

    Tensors become float32, except that float64 stays.

    Args:
        embeddings: the module paths, among those of `modules`, that are embeddings and not linear layers.

    Raises:
        AdapterError: no modules, a path that is not a dotted name, factors that do not fit each other, integer
            tensors, or values that are not finite; names adapter and module.
    """
    if not modules:
        raise AdapterError("an adapter needs at least one module", where=f"adapter {name}", found="no modules")
    unknown = sorted(set(embeddings) - set(modules))
    if unknown:
        raise AdapterError("embeddings names modules the adapter lacks", where=f"adapter {name}", found=unknown[0])
    kept, shapes = {}, {}
    for path in sorted(modules):
        where = f"adapter {name}, module {path}"
        check_module_path(path, where=f"adapter {name}")
        kept[path] = _as_floating(modules[path], where)
        check_finite(kept[path], where=where)
        shapes[path] = _shape_of(kept[path], "embedding" if path in embeddings else "linear")
    return Adapter(name, MappingProxyType(kept), MappingProxyType(shapes), **about)


def check_module_path(path: str, *, where: object) -> None:
    """Refuse a module path that is not a dotted name: empty parts, slashes, blanks or control characters.

    Raises:
        AdapterError: names the path.
    """
    named = path[:MAX_PATH_CHARACTERS]
    if named != path or not path.isprintable() or not _DOTTED.fullmatch(path):
        raise AdapterError(
            f"'{named}' is not a module path",
            where=where,
            expected=f"a dotted name of at most {MAX_PATH_CHARACTERS} characters, as in model.layers.0.mlp.up_proj",
            do="do not use this file: its tensor names were not written by a training library",
        )


def content_key(adapter: Adapter) -> str:
    """A key that orders adapters by their weights, quickly: pieces of the file, or the digest of tensors in memory.

    Adapters with unequal keys differ; of those with equal keys `weights_digest` tells whether they do.
    """
    if adapter.source is not None:
        return file_key(Path(adapter.source.folder) / "adapter_model.safetensors")
    return weights_digest(adapter)


def weights_digest(adapter: Adapter) -> str:
    """The sha256 of the adapter's weights: of its file, or of its tensors where it was made in memory.

    It depends on nothing else, so it gives adapters an order that neither names nor arguments can change.
    """
    if adapter.source is not None:
        return adapter.source.weights_sha256
    digest = hashlib.sha256()
    for path, shape in adapter.shapes.items():
        digest.update(f"{path}\0{shape}\0".encode())
        for tensor in (adapter.modules[path].lora_a, adapter.modules[path].lora_b):
            digest.update(f"{tensor.dtype}\0".encode())
            # As integers of that size: numpy has no bfloat16.
            plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
            digest.update(plain.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _as_floating(factors: LoraFactors, where: str) -> LoraFactors:
    lora_a, lora_b = factors.lora_a, factors.lora_b
    if lora_a.dim() != 2 or lora_b.dim() != 2 or lora_a.shape[0] != lora_b.shape[1] or 0 in lora_a.shape + lora_b.shape:
        raise AdapterError(
            "the factors do not fit each other",
            where=where,
            found=f"lora_a {tuple(lora_a.shape)}, lora_b {tuple(lora_b.shape)}",
            expected="lora_a (r, d_in) and lora_b (d_out, r), none of them 0",
        )
    if not (lora_a.is_floating_point() and lora_b.is_floating_point()):
        raise AdapterError(
            "the factors are not floating point", where=where, found=f"lora_a {lora_a.dtype}, lora_b {lora_b.dtype}"
        )
    if torch.float64 in (lora_a.dtype, lora_b.dtype):
        return LoraFactors(lora_a.double(), lora_b.double())
    return LoraFactors(lora_a.float(), lora_b.float())


def _shape_of(factors: LoraFactors, kind: ModuleKind) -> ModuleShape:
    r, d_in = factors.lora_a.shape
    return ModuleShape(factors.lora_b.shape[0], d_in, r, kind)
