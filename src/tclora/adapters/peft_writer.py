"""Writing a PEFT folder that every server and every PEFT since 0.6 reads alike.

In: an `Adapter`. Out: a folder with `adapter_config.json`, `adapter_model.safetensors` and, if given, a card: one rank
for all modules (smaller ones padded with zeros), `lora_alpha = r`, so the scale is 1, and factors balanced so that
half precision loses least. Same adapter, same bytes. Refused: an existing output, a rank below the adapter's, and
values that the target dtype cannot hold. The folder appears whole or not at all.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tclora.adapters.config import CONFIG_FILE
from tclora.adapters.factors import LoraFactors, all_finite, balance_factors, check_finite, pad_rank
from tclora.adapters.keys import tensor_names
from tclora.adapters.locate import WEIGHTS_FILE
from tclora.adapters.lora import Adapter
from tclora.adapters.output_place import refuse_existing
from tclora.adapters.targets import minimal_targets
from tclora.adapters.threads import map_in_threads
from tclora.adapters.weights_writer import STORED_DTYPES, write_tensors
from tclora.artifacts import staged_folder, write_bytes
from tclora.errors import AdapterError, ConfigError

__all__ = ["CARD_FILE", "fill_adapter_folder", "write_adapter"]

CARD_FILE = "README.md"
# The part of a factor that half precision may lose to underflow; its rounding alone costs a twentieth of that.
_MOST_LOST = 0.01
# Threads that make modules ready while the file is written.
_AHEAD = 2
# Random directions along which an update is compared with its rounded form: its norm to about a third.
_N_PROBES = 4


def write_adapter(
    adapter: Adapter,
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    rank: int | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an adapter as a PEFT folder of one uniform rank, with a scale of 1.

    Args:
        rank: the rank to write, at least the largest of the adapter's; that one without it.
        card: the text of the model card, as Markdown.
        overwrite: replace an adapter that is there, once the new one is complete.

    Returns:
        `folder`.

    Raises:
        OutputExistsError: the folder is not empty and `overwrite` was not given, or it holds other things.
        ConfigError: `rank` is below the adapter's, or `dtype` is not a floating-point type of PEFT.
        AdapterError: a value overflows `dtype`; names the module.
        ArtifactError: the file system refused.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite=overwrite)
    _check_dtype(dtype)
    rank = _common_rank(adapter, rank)
    again = partial(refuse_existing, folder, overwrite=overwrite)
    with staged_folder(folder, overwrite=overwrite, refuse=again) as staging:
        fill_adapter_folder(adapter, staging, dtype=dtype, rank=rank, card=card)
    return folder


def fill_adapter_folder(
    adapter: Adapter,
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    rank: int | None = None,
    card: str | None = None,
) -> Mapping[str, float]:
    """Write the files of `write_adapter` into an empty folder that the caller is staging, each flushed to disk.

    Returns:
        For every module, about how much of its update rounding to `dtype` changed, relative to the update's norm.

    Raises:
        ConfigError, AdapterError, ArtifactError: as `write_adapter`.
    """
    _check_dtype(dtype)
    rank = _common_rank(adapter, rank)
    config = json.dumps(_config(adapter, rank), indent=2, sort_keys=True) + "\n"
    rounding: dict[str, float] = {}
    tensors = _stored_tensors(adapter, rank, dtype, rounding)
    write_tensors(folder / WEIGHTS_FILE, _stored_shapes(adapter, rank), dtype, tensors)
    write_bytes(folder / CONFIG_FILE, config.encode())
    if card is not None:
        write_bytes(folder / CARD_FILE, card.encode())
    return rounding


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in STORED_DTYPES:
        raise ConfigError("adapters are not stored in this dtype", found=dtype, expected=list(STORED_DTYPES))


def _common_rank(adapter: Adapter, rank: int | None) -> int:
    largest = max(shape.r for shape in adapter.shapes.values())
    if rank is None:
        return largest
    if rank < largest:
        widest = next(path for path, shape in adapter.shapes.items() if shape.r == largest)
        raise ConfigError(
            f"rank {rank} is too small for {adapter.name}",
            where=widest,
            found=f"an update of rank {largest}",
            expected=f"a rank of at least {largest}",
            do="write it with a larger rank, or truncate the update first",
        )
    return rank


def _in_order(adapter: Adapter) -> list[tuple[str, tuple[str, str]]]:
    """Module paths with their two tensor names, in the order of those names in the file."""
    named = [(path, tensor_names(path, shape.kind)) for path, shape in adapter.shapes.items()]
    return sorted(named, key=lambda pair: pair[1])


def _stored_shapes(adapter: Adapter, rank: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path, (name_a, name_b) in _in_order(adapter):
        shape = adapter.shapes[path]
        shapes[name_a], shapes[name_b] = (rank, shape.d_in), (shape.d_out, rank)
    return shapes


def _stored_tensors(
    adapter: Adapter, rank: int, dtype: torch.dtype, rounding: dict[str, float]
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor as it is stored, read and cast module by module, a few of them ahead of the file."""

    def stored(module: tuple[str, tuple[str, str]]) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
        path, (name_a, name_b) = module
        factors = pad_rank(balance_factors(adapter.modules[path]), rank)
        cast = LoraFactors(
            _cast(factors.lora_a, dtype, name_a, adapter.name), _cast(factors.lora_b, dtype, name_b, adapter.name)
        )
        _refuse_product(cast, path, adapter.name)
        rounding[path] = _rounded_by(factors, cast)
        return (name_a, cast.lora_a), (name_b, cast.lora_b)

    return chain.from_iterable(map_in_threads(stored, _in_order(adapter), _AHEAD))


def _rounded_by(factors: LoraFactors, cast: LoraFactors) -> float:
    """The part of an update, by its norm, that casting its factors changes, as a few random directions show it.

    Terms that cancel keep their rounding: the difference of two nearly equal adapters may be nothing else.
    """
    if cast.lora_a.dtype == factors.lora_a.dtype:
        return 0.0
    probes = _probes(factors.lora_a.shape[1]).to(factors.lora_a)
    exact = factors.lora_b @ (factors.lora_a @ probes)
    stored = cast.lora_b.to(exact) @ (cast.lora_a.to(exact) @ probes)
    size = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(stored - exact)) / size if size else 0.0


@lru_cache(maxsize=8)
def _probes(d_in: int) -> Tensor:
    return torch.randn(d_in, _N_PROBES, generator=torch.Generator().manual_seed(0))


def _cast(tensor: Tensor, dtype: torch.dtype, name: str, adapter_name: str) -> Tensor:
    cast = tensor.to(dtype)
    if not all_finite(cast):
        what, found, expected = "overflows", "values up to", f"at most {torch.finfo(dtype).max:.3g}"
    # The other dtypes reach as far down as float32 does.
    elif dtype == torch.float16 and (lost := _lost(tensor, cast)) > _MOST_LOST:
        what, found = "is too small for", f"{lost:.0%} of it lost: values of at most"
        expected = f"values that {dtype} keeps to {_MOST_LOST:.0%}, from about 1e-5 on"
    else:
        return cast
    raise AdapterError(
        f"{name} {what} {dtype}",
        where=f"adapter {adapter_name}",
        found=f"{found} {float(tensor.abs().max()):.3g}",
        expected=expected,
        do="write it as bf16 or fp32",
    )


def _lost(tensor: Tensor, cast: Tensor) -> float:
    """The part of a tensor, by its norm, that casting loses."""
    size = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
    return float(torch.linalg.vector_norm(tensor.double() - cast.double())) / size if size else 0.0


def _refuse_product(factors: LoraFactors, path: str, adapter_name: str) -> None:
    try:
        check_finite(factors, where=path)
    except AdapterError as error:
        raise AdapterError(
            "the update overflows float32",
            where=f"{path} of adapter {adapter_name}",
            found=error.found,
            expected=error.expected,
            do="lower the scale or the weights",
        ) from None


def _config(adapter: Adapter, rank: int) -> dict[str, Any]:
    """Only fields that PEFT 0.6 already knows: older versions refuse the others, and servers ignore them."""
    return {
        "auto_mapping": None,
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "revision": adapter.base_revision,
        "target_modules": minimal_targets(adapter.shapes, adapter.narrow_leaves),
        "task_type": adapter.task_type,
    }
