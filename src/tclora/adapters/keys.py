"""Tensor names of a PEFT LoRA file: which module and which factor each belongs to.

In: the header of the file. Out: `ModuleKeys` by module path, what else was found, and what is refused. A name is
`base_model.model.` + module path + `.lora_A.weight` or `.lora_B.weight`; for embeddings `.lora_embedding_A` or `_B`.
Refused, each by name: magnitudes, biases, trained tokens, full tensors, convolutions, factors without their partner.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tclora.adapters.lora import ModuleKind, ModuleShape, check_module_path
from tclora.adapters.weights_file import TensorInfo
from tclora.errors import AdapterError

__all__ = ["PREFIX", "KeyTable", "ModuleKeys", "sort_keys", "tensor_names"]

PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<path>.+)\.(?:lora_(?P<linear>[AB])(?:\.(?P<word>\w+))?\.weight|"
    r"lora_embedding_(?P<embedding>[AB])(?:\.(?P<embedding_word>\w+))?)"
)
# Nobody reads more, and a file of 100,000 wrong tensors should be refused as fast as any other.
MAX_REFUSALS = 50
_FLOATING = ("F64", "F32", "F16", "BF16")
_TELLING_PARTS = {
    "lora_magnitude_vector": "a DoRA magnitude",
    "lora_B.bias": "a bias on lora_B (lora_bias)",
    "token_adapter": "trained tokens (trainable_token_indices)",
    "trainable_tokens": "trained tokens (trainable_token_indices)",
    "lora_diag": "a KaSA diagonal",
    ".base_layer.lora_": "the LoRA of packed parameters (target_parameters)",
    "modules_to_save": "a trained module (modules_to_save)",
}
_TELLING = re.compile("|".join(map(re.escape, _TELLING_PARTS)))


@dataclass(frozen=True)
class ModuleKeys:
    """The two tensor names of one module, and its shape."""

    lora_a: str
    lora_b: str
    shape: ModuleShape


@dataclass(frozen=True)
class KeyTable:
    """What the names of one file amount to: modules by path, things to say, and reasons to refuse it."""

    modules: Mapping[str, ModuleKeys]
    notes: tuple[str, ...] = ()
    refusals: tuple[AdapterError, ...] = ()


@dataclass
class _Sorted:
    """Names by module path and factor, while they are being sorted."""

    linear: dict[str, dict[str, str]] = field(default_factory=dict)
    embedding: dict[str, dict[str, str]] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    base_copies: list[str] = field(default_factory=list)
    refusals: list[AdapterError] = field(default_factory=list)


def tensor_names(path: str, kind: ModuleKind) -> tuple[str, str]:
    """The names under which PEFT stores `lora_a` and `lora_b` of a module."""
    if kind == "embedding":
        return f"{PREFIX}{path}.lora_embedding_A", f"{PREFIX}{path}.lora_embedding_B"
    return f"{PREFIX}{path}.lora_A.weight", f"{PREFIX}{path}.lora_B.weight"


def sort_keys(header: Mapping[str, TensorInfo], *, where: object) -> KeyTable:
    """Assign each tensor of a file to its module, collecting what is refused rather than raising it."""
    found = _Sorted()
    for name in header:
        if len(found.refusals) == MAX_REFUSALS:
            break
        _place(name, found, where)
    modules = _paired(found.linear, "linear", header, found.refusals, where)
    modules |= _paired(found.embedding, "embedding", header, found.refusals, where)
    for path in sorted(found.linear.keys() & found.embedding.keys()):
        found.refusals.append(_refused(path, "both a linear and an embedding update", where))
    if not modules and not found.refusals:
        found.refusals.append(AdapterError("the adapter is empty", where=where, found="no LoRA tensors"))
    if len(found.words) > 1:
        words = ", ".join(repr(word) for word in sorted(found.words)[:5])
        found.refusals.append(
            AdapterError("the tensor names hold several adapters", where=where, found=f"adapter names {words}")
        )
    return KeyTable({path: modules[path] for path in sorted(modules)}, _notes(found), tuple(found.refusals))


def _place(name: str, found: _Sorted, where: object) -> None:
    """Sort one tensor name into `found`, or refuse it there."""
    match = _FACTOR.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    telling = _TELLING.search(name)
    if telling is not None:
        found.refusals.append(_refused(name, _TELLING_PARTS[telling.group()], where))
    elif name.startswith(PREFIX) and name.endswith((".base_layer.weight", ".base_layer.bias")):
        found.base_copies.append(name)
    elif match is None:
        found.refusals.append(_refused(name, _what_else(name), where))
    else:
        try:
            check_module_path(match["path"], where=where)
        except AdapterError as error:
            found.refusals.append(error)
            return
        table = found.linear if match["linear"] else found.embedding
        factors = table.setdefault(match["path"], {})
        factor = match["linear"] or match["embedding"]
        if factor in factors:
            found.refusals.append(_refused(name, f"a second tensor beside {factors[factor]}", where))
        factors[factor] = name
        found.words.add(match["word"] or match["embedding_word"] or "")


def _paired(
    table: Mapping[str, Mapping[str, str]],
    kind: ModuleKind,
    header: Mapping[str, TensorInfo],
    refusals: list[AdapterError],
    where: object,
) -> dict[str, ModuleKeys]:
    modules = {}
    for path, names in table.items():
        if len(refusals) >= MAX_REFUSALS:
            break
        try:
            modules[path] = _module_keys(path, names, kind, header, where)
        except AdapterError as error:
            refusals.append(error)
    return modules


def _what_else(name: str) -> str:
    if not name.startswith(PREFIX):
        return f"a tensor whose name does not begin with {PREFIX}"
    if "lora_" in name:
        return "a LoRA tensor of a kind that is not known"
    return "a full tensor, trained or resized, under its plain name (modules_to_save, or a resized vocabulary)"


def _module_keys(
    path: str, names: Mapping[str, str], kind: ModuleKind, header: Mapping[str, TensorInfo], where: object
) -> ModuleKeys:
    if len(names) < 2:
        (name,) = names.values()
        raise _refused(name, "one factor without the other", where)
    info_a, info_b = header[names["A"]], header[names["B"]]
    for name, info in ((names["A"], info_a), (names["B"], info_b)):
        if info.dtype not in _FLOATING:
            raise _refused(name, f"a tensor of dtype {info.dtype}", where, "F64, F32, F16 or BF16")
        if len(info.shape) == 4:
            raise _refused(name, f"the LoRA of a convolution, of shape {info.shape}", where)
    shapes_fit = len(info_a.shape) == len(info_b.shape) == 2 and info_a.shape[0] == info_b.shape[1]
    if not shapes_fit or 0 in info_a.shape + info_b.shape:
        raise _refused(
            path,
            f"lora_A {info_a.shape} and lora_B {info_b.shape}",
            where,
            "lora_A (r, d_in) and lora_B (d_out, r), with sizes of 1 or more",
        )
    shape = ModuleShape(info_b.shape[0], info_a.shape[1], info_a.shape[0], kind)
    return ModuleKeys(names["A"], names["B"], shape)


def _notes(found: _Sorted) -> tuple[str, ...]:
    notes = []
    if found.base_copies:
        notes.append(
            f"left out {len(found.base_copies)} base weights saved beside the LoRA, as copies of the base's own: "
            f"{', '.join(found.base_copies[:3])}; rows added to a vocabulary would be lost (compare with --base)"
        )
    for word in sorted(found.words - {""}):
        notes.append(f"the tensor names carry the adapter name '{word}', which PEFT does not write; it was dropped")
    return tuple(notes)


def _refused(
    name: str, found: str, where: object, expected: str = "lora_A and lora_B of linear layers"
) -> AdapterError:
    return AdapterError(
        f"{name[:300]} cannot be part of a merge",
        where=where,
        found=found,
        expected=expected,
        do="leave this adapter out, or train it again as a plain LoRA",
    )
