"""Which modules a config's `target_modules` means, and the shortest honest list for modules that are there.

In: module paths, with a config to compare (reading) or none (writing). Out: notes in words, or a `target_modules`
list. PEFT matches a list entry exactly or as a dotted suffix, and a single string as a regular expression on the
whole path. Nothing is refused here: the tensors of a file win over what its config says of them.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

from tclora.adapters.config import LoraConfig
from tclora.adapters.pattern_syntax import UnsupportedPatternError, parse
from tclora.adapters.patterns import Budget, fullmatch

__all__ = [
    "absent_targets",
    "layer_of",
    "leaf_of",
    "minimal_targets",
    "narrow_leaves",
    "place_of",
    "target_notes",
    "untargeted_paths",
]

_LISTED = 5
# A place in no model: an entry or pattern that reaches it reaches a leaf wherever it is.
_ELSEWHERE = "elsewhere"


def leaf_of(path: str) -> str:
    """The last part of a module path, as in `q_proj`."""
    return path.rsplit(".", 1)[-1]


def layer_of(path: str) -> int | None:
    """The first number in a module path, which is its layer; later ones count experts."""
    return next((int(part) for part in path.split(".") if part.isdecimal()), None)


def target_notes(config: LoraConfig, paths: Sequence[str]) -> list[str]:
    """What the config and the tensors disagree about, and what layers seem to be missing, each as one sentence."""
    return _target_disagreements(config.target_modules, paths) + _missing_layers(config, paths)


def absent_targets(targets: tuple[str, ...] | str | None, paths: Sequence[str]) -> list[str]:
    """The entries of a `target_modules` list that no path answers to, sorted; none for a pattern."""
    if targets is None or isinstance(targets, str):
        return []
    present = set().union(*(_suffixes(path) for path in paths))
    return sorted(set(targets) - present)


def untargeted_paths(targets: tuple[str, ...] | str | None, paths: Sequence[str]) -> list[str]:
    """The paths that a `target_modules` does not cover; `None` and `all-linear` are taken to cover all.

    Raises:
        UnsupportedPatternError: the pattern cannot be matched in bounded time.
    """
    if targets is None or targets == "all-linear":
        return []
    if isinstance(targets, str):
        node, budget = parse(targets), Budget()
        return [path for path in paths if not fullmatch(node, path, budget)]
    return [path for path in paths if _suffixes(path).isdisjoint(targets)]


def narrow_leaves(config: LoraConfig, paths: Collection[str]) -> frozenset[str]:
    """The leaf names among `paths` that the config targets in some places only: by path, pattern, layer or exclusion.

    The base may have modules of that name elsewhere, even of a kind that takes no LoRA.
    """
    leaves = frozenset(map(leaf_of, paths))
    if config.excludes or config.layers_to_transform is not None:
        return leaves
    try:
        return frozenset(
            map(leaf_of, untargeted_paths(config.target_modules, [f"{_ELSEWHERE}.{leaf}" for leaf in leaves]))
        )
    except UnsupportedPatternError:
        return leaves


def minimal_targets(paths: Collection[str], narrow: Collection[str] = ()) -> list[str]:
    """A sorted `target_modules` list that PEFT matches to exactly `paths`, as far as `paths` can tell.

    A leaf name stands for its modules where they fill every layer that any module of that leaf could be in: layers 0
    to the last seen in the whole adapter, without a gap, in every place of the tree where the leaf occurs. Otherwise
    (some layers only, or a leaf that is a number, as in `to_out.0`) each module is listed by its full path. So it is
    for the leaves in `narrow`: the base is not known here, and PEFT would give a LoRA to every module of that name, of
    zeros or, where it knows no LoRA for the module's class, not load at all.
    """
    n_layers = 1 + max((layer for path in paths if (layer := layer_of(path)) is not None), default=-1)
    places: dict[str, dict[str, set[int | None]]] = {}
    for path in paths:
        places.setdefault(leaf_of(path), {}).setdefault(place_of(path), set()).add(layer_of(path))
    closed = {
        leaf
        for leaf, by_place in places.items()
        # Different numbers below n_layers, so as many of them as that are all of them.
        if not leaf.isdecimal()
        and leaf not in narrow
        and all(seen == {None} or len(seen) == n_layers for seen in by_place.values())
    }
    return sorted(closed | {path for path in paths if leaf_of(path) not in closed})


def place_of(path: str) -> str:
    """The path with its layer number taken out."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return path if number is None else ".".join([*parts[:number], "*", *parts[number + 1 :]])


def _target_disagreements(targets: tuple[str, ...] | str | None, paths: Sequence[str]) -> list[str]:
    try:
        absent, dropped = absent_targets(targets, paths), untargeted_paths(targets, paths)
    except UnsupportedPatternError as error:
        return [f"the config's target_modules was not compared with the tensors: {error}"]
    notes = [f"the config targets {_some(absent)}, for which the file holds no tensors"] if absent else []
    if dropped:
        notes.append(f"the file holds tensors for {_some(dropped)}, which the config does not target; they are used")
    return notes


def _suffixes(path: str) -> set[str]:
    # Every end of a path that a list entry may equal, so that the cost does not grow with both lists.
    return {path, *(path[i + 1 :] for i, letter in enumerate(path) if letter == ".")}


def _missing_layers(config: LoraConfig, paths: Sequence[str]) -> list[str]:
    """Layers that some leaf lacks although a later one has it, unless the config asks for certain layers."""
    targets = config.target_modules
    by_layer = (
        targets != "all-linear"
        if isinstance(targets, str)
        else any(layer_of(target) is not None for target in targets or ())
    )
    if config.layers_to_transform is not None or by_layer:
        return []
    numbered = [(leaf_of(path), layer) for path in paths if (layer := layer_of(path)) is not None]
    by_leaf: dict[str, set[int]] = {}
    for leaf, layer in numbered:
        by_leaf.setdefault(leaf, set()).add(layer)
    notes = []
    for leaf in sorted(by_leaf):
        seen = sorted(by_leaf[leaf])
        # Gaps between neighbours, so that a layer numbered 10**9 costs nothing.
        gaps = [f"{low + 1}" + (f" to {high - 1}" if high - low > 2 else "") for low, high in _gaps([-1, *seen])]
        if gaps:
            notes.append(f"{leaf} has no tensors in layers {_some(gaps)}, but has them in later layers")
    return notes


def _gaps(numbers: Sequence[int]) -> list[tuple[int, int]]:
    return [(low, high) for low, high in pairwise(numbers) if high - low > 1]


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"
