"""The modules of a file on disk, each read when it is asked for.

In: a checked file, the tensor names and scale of each module. Out: a mapping from module path to `LoraFactors` with
the scale folded into `lora_b`, in float32 (float64 where a source tensor is), on the CPU, in memory of their own.
Refused on reading a module: values that are not finite, and products that overflow.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tclora.adapters.factors import LoraFactors, check_finite
from tclora.adapters.keys import ModuleKeys
from tclora.errors import AdapterError

__all__ = ["StoredModules", "open_tensors", "stored_factors"]


class StoredModules(Mapping[str, LoraFactors]):
    """A lazy mapping: iteration is over sorted paths and reads nothing; indexing reads that module alone."""

    def __init__(self, file: Path, modules: Mapping[str, ModuleKeys], scales: Mapping[str, float]):
        self._file, self._modules, self._scales = file, modules, scales
        self._tensors = open_tensors(file)

    def __getitem__(self, path: str) -> LoraFactors:
        factors, scale = self.as_stored(path)
        dtype = torch.float64 if torch.float64 in (factors.lora_a.dtype, factors.lora_b.dtype) else torch.float32
        # copy=True: the tensors must not be views of a file that somebody may overwrite.
        folded = LoraFactors(factors.lora_a.to(dtype, copy=True), factors.lora_b.to(dtype, copy=True))
        folded.lora_b.mul_(scale)
        return folded

    def as_stored(self, path: str) -> tuple[LoraFactors, float]:
        """The checked tensors in the dtype of the file, perhaps views of it, and the scale `lora_b` still lacks."""
        keys, scale = self._modules[path], self._scales[path]
        factors = LoraFactors(self._read(keys.lora_a), self._read(keys.lora_b))
        check_finite(factors, where=self._file.parent, names=(keys.lora_a, keys.lora_b), scale=scale)
        return factors, scale

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, path: object) -> bool:
        return path in self._modules

    def __reduce__(self):
        # An open file cannot be sent to another process; its path can.
        return type(self), (self._file, dict(self._modules), dict(self._scales))

    def _read(self, name: str) -> Tensor:
        try:
            return self._tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"cannot read {name}", where=self._file.parent, found=str(error)[:300]) from None


def stored_factors(modules: Mapping, path: str) -> tuple[LoraFactors, float]:
    """One module's checked factors from an adapter's `modules`, and the scale that `lora_b` still lacks.

    Those of a file come in its dtype and may be views of it: to be copied, and never changed.

    Raises:
        AdapterError: as reading the module does.
    """
    if isinstance(modules, StoredModules):
        return modules.as_stored(path)
    factors = modules[path]
    check_finite(factors, where=path)
    return factors, 1.0


def open_tensors(file: Path) -> Any:
    """Open a safetensors file that has passed `read_header`, mapping it into memory.

    Raises:
        AdapterError: the library refuses the file, as when tensors overlap or leave gaps.
    """
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{file.name} is damaged or is not a safetensors file",
            where=file.parent,
            found=str(error)[:300],
            do="copy or download the adapter again",
        ) from None
