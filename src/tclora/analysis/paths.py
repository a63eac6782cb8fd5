"""Which layer a module belongs to and what kind it is, read from its path; any architecture will do.

In: module paths such as `model.layers.3.self_attn.q_proj`. Out: the layer, the first component that is a number (None
where there is none), and the kind, the last component that is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tclora.adapters.targets import layer_of

__all__ = ["Place", "layer_label", "places_of"]


@dataclass(frozen=True)
class Place:
    """Where a module stands: its layer, None for a module outside the layers, and its kind."""

    layer: int | None
    kind: str


def places_of(modules: Iterable[str]) -> dict[str, Place]:
    """The place of each module.

    Where one layer has two kinds of module of one last name, as GPT-2 has `attn.c_proj` and `mlp.c_proj`, that kind is
    written with the name before it as well. Experts of one layer share a place.
    """
    names = {path: [part for part in path.split(".") if not part.isdecimal()] for path in modules}
    layers = {path: layer_of(path) for path in names}
    seen: dict[tuple[int | None, str], set[str]] = {}
    for path, words in names.items():
        seen.setdefault((layers[path], _tail(words, 1)), set()).add(_tail(words, 2))
    ambiguous = {kind for (_, kind), tails in seen.items() if len(tails) > 1}
    return {
        path: Place(layers[path], _tail(words, 2 if _tail(words, 1) in ambiguous else 1))
        for path, words in names.items()
    }


def layer_label(layer: int | None) -> str:
    """The layer as text; `other` for modules outside the layers."""
    return "other" if layer is None else str(layer)


def _tail(words: list[str], count: int) -> str:
    # A path of numbers alone names no kind.
    return ".".join(words[-count:]) or "other"
