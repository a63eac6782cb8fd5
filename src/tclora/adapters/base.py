"""The base model's shapes, from its config and weight headers alone, and whether an adapter fits them.

In: a folder with `config.json` and safetensors weights, in one file or in shards. Out: tensor shapes by name; no
weight is read. Refused: modules that the base does not have, and updates of another shape than its weight. Said, not
refused: modules of the base that the adapter has in other layers only, as when the last layers were lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tclora.adapters.files import parse_json, read_bounded
from tclora.adapters.lora import Adapter, ModuleShape
from tclora.adapters.targets import layer_of, place_of
from tclora.adapters.weights_file import read_header
from tclora.errors import AdapterError, AdapterMismatchError

__all__ = ["BaseShapes", "base_shapes", "check_against_base"]

_INDEX, _SINGLE, _CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
MAX_INDEX_BYTES = 50_000_000
# Families whose Linear is a Conv1D, which stores its weight as (d_in, d_out).
_TRANSPOSED = frozenset(("gpt2", "gpt_bigcode", "openai-gpt", "decision_transformer", "imagegpt", "ctrl", "clvp"))
# What output layers are called, in models and in checkpoints, and the embeddings that they may be tied to.
_OUTPUTS = ("lm_head", "proj_out", "embed_out", "output_projection")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "embeddings", "shared")
_LISTED = 3
_LAYERS_LISTED = 8


@dataclass(frozen=True)
class BaseShapes(Mapping[str, tuple[int, ...]]):
    """Tensor shapes of a base model by name, and what kind of model its config says it is."""

    name: str
    model_type: str
    tensors: Mapping[str, tuple[int, ...]]
    part_types: tuple[str, ...] = ()
    """The model types of its parts, as of an encoder and a decoder."""

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self.tensors[name]

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def base_shapes(base: str | Path) -> BaseShapes:
    """Read the tensor shapes of a base model's folder, from headers only.

    Raises:
        AdapterError: there is no such folder, it lacks `config.json` or safetensors weights, or one of them is damaged.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        raise AdapterError(
            "there is no such base model",
            where=folder,
            expected="a folder with config.json and safetensors weights",
            do="check the path; an id on the Hub has the form org/name",
        )
    config = parse_json(read_bounded(folder / _CONFIG, MAX_INDEX_BYTES), what=_CONFIG, where=folder)
    tensors: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder):
        tensors |= {name: info.shape for name, info in read_header(file).items()}
    parts = tuple(
        str(part["model_type"]) for part in config.values() if isinstance(part, dict) and "model_type" in part
    )
    ordered = {name: tensors[name] for name in sorted(tensors)}
    return BaseShapes(str(base), str(config.get("model_type", "")), ordered, parts)


@dataclass(frozen=True)
class _Names:
    """The base's tensor names, ready for looking up modules."""

    shapes: Mapping[str, tuple[int, ...]]
    by_end: Mapping[str, list[str]]
    """Names by each of their ends after a dot."""
    towers: frozenset[str]
    """The ends, of two parts or more, of what stands before a layer's number, as in `decoder.layers`."""
    transposed: bool
    """Whether some of its weights are stored as (d_in, d_out)."""

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> "_Names":
        by_end: dict[str, list[str]] = {}
        before: set[tuple[str, ...]] = set()
        for name in shapes:
            parts = name.split(".")
            for i in range(len(parts)):
                by_end.setdefault(".".join(parts[i:]), []).append(name)
            before.add(tuple(takewhile(lambda part: not part.isdecimal(), parts)))
        towers = frozenset(".".join(place[i:]) for place in before for i in range(len(place) - 1))
        types = (getattr(shapes, "model_type", "gpt2"), *getattr(shapes, "part_types", ()))
        return cls(shapes, by_end, towers, not _TRANSPOSED.isdisjoint(types))


def check_against_base(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Refuse an adapter with modules that the base does not have, or of another shape; say which layers it leaves out.

    A module matches a weight whose name is its path, or the end of it after a dot, or the other way around:
    checkpoints leave out prefixes such as `transformer.`. An output layer without a weight of its own is tied to the
    embedding.

    Returns:
        One sentence per kind of module that the base has in layers where the adapter has none, although the adapter has
        it in others. That may be meant (`layers_to_transform`), or be a file that was cut short.

    Raises:
        AdapterMismatchError: names adapter, base, and the first modules that do not fit.
    """
    names = _Names.of(shapes)
    problems = []
    for path, shape in adapter.shapes.items():
        weights = _weights_of(path, names)
        if not weights:
            problems.append(f"{path} is not in the base")
        elif not any(_fits(shape, shapes[name], names.transposed) for name in weights):
            problems.append(f"{path} is ({shape.d_out}, {shape.d_in}), and {weights[0]} is {shapes[weights[0]]}")
    if problems:
        base = getattr(shapes, "name", "the base")
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise AdapterMismatchError(
            f"{adapter.name} does not fit {base}",
            where=adapter.source.folder if adapter.source else None,
            found="; ".join(problems[:_LISTED]) + more,
            expected="modules and shapes of this base"
            + (f"; it names {adapter.base_model}" if adapter.base_model else ""),
            do="give the base that the adapter was trained on, or leave the adapter out",
        )
    return tuple(_layers_left_out(adapter, names))


def _layers_left_out(adapter: Adapter, base: _Names) -> list[str]:
    numbers = sorted({number for name in base.shapes if (number := layer_of(name)) is not None})
    kinds: dict[str, dict[int, ModuleShape]] = {}
    for path, shape in adapter.shapes.items():
        if (number := layer_of(path)) is not None:
            kinds.setdefault(place_of(path), {})[number] = shape
    said = []
    for place, held in sorted(kinds.items()):
        shape = next(iter(held.values()))
        lacking = [
            number
            for number in numbers
            if number not in held
            # A layer of another kind, as in hybrid models, has no such module and lacks nothing.
            and any(
                _fits(shape, base.shapes[name], base.transposed)
                for name in _weights_of(place.replace("*", str(number), 1), base)
            )
        ]
        if lacking:
            said.append(f"{adapter.name} has {place} in {_layers(held)}, and the base also in {_layers(lacking)}")
    return said


def _layers(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    text = ", ".join(map(str, ordered[:_LAYERS_LISTED]))
    more = f" and {len(ordered) - _LAYERS_LISTED} more" if len(ordered) > _LAYERS_LISTED else ""
    return f"layer{'' if len(ordered) == 1 else 's'} {text}{more}"


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / _INDEX).exists():
        return [folder / _SINGLE]
    index = parse_json(read_bounded(folder / _INDEX, MAX_INDEX_BYTES), what=_INDEX, where=folder)
    table = index.get("weight_map")
    names = sorted(set(table.values())) if isinstance(table, dict) and all(map(_is_file_name, table.values())) else []
    if not names:
        raise AdapterError(f"{_INDEX} names no files", where=folder, expected="a weight_map of names to files")
    return [folder / name for name in names]


def _is_file_name(name: object) -> bool:
    # An index is input too: it must not lead out of its folder.
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def _weights_of(path: str, base: _Names) -> list[str]:
    parts = f"{path}.weight".split(".")
    if ".".join(parts) in base.shapes:
        return [".".join(parts)]
    if found := base.by_end.get(".".join(parts)):
        return found
    for i in range(1, len(parts) - 1):
        if (name := ".".join(parts[i:])) in base.shapes:
            return [name]
    return _in_another_tower(parts, base) or (_of_output(base) if parts[-2] in _OUTPUTS else [])


def _in_another_tower(parts: list[str], base: _Names) -> list[str]:
    """Weights of a layer named alike: checkpoints of models with several towers may name those otherwise.

    None where the base has layers in this very tower: then it lacks this one.
    """
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), 0)
    if not number or any(".".join(parts[i:number]) in base.towers for i in range(number - 1)):
        return []
    return base.by_end.get(".".join(parts[number - 1 :]), [])


def _of_output(base: _Names) -> list[str]:
    """The output layer's weights under any of its names, or the embeddings that it may be tied to."""
    own = [name for end in _OUTPUTS for name in base.by_end.get(f"{end}.weight", [])]
    return own or [name for end in _EMBEDDINGS for name in base.by_end.get(f"{end}.weight", [])]


def _fits(shape: ModuleShape, weight: tuple[int, ...], transposed: bool) -> bool:
    # An embedding's weight is (vocabulary, dim): the transpose of its delta as stored.
    if shape.kind == "embedding":
        return weight == (shape.d_in, shape.d_out)
    return weight == (shape.d_out, shape.d_in) or (transposed and weight == (shape.d_in, shape.d_out))
