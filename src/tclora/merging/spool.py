"""Merged factors between the batch that made them and the file they end in: in memory, or in one raw file on disk.

The rank of the written adapter is the largest over all modules, which the last batch settles, so factors wait here. On
disk they cost no memory; read back, they are the bits that went in.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from tclora.adapters import LoraFactors

__all__ = ["FactorSpool"]


class FactorSpool(Mapping[str, LoraFactors]):
    """A mapping from module path to factors, in sorted order; `path` is None for one that lives in memory."""

    def __init__(self, path: Path | None):
        self._file = None if path is None else open(path, "w+b")  # noqa: SIM115 - closed by `close`, or with the object
        self._kept: dict[str, LoraFactors] = {}
        self._places: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {}
        self._view: mmap.mmap | None = None
        self.ranks: dict[str, tuple[int, int, int]] = {}

    def add(self, name: str, factors: LoraFactors) -> None:
        """Keep the float32 factors of one module."""
        d_out, rank = factors.lora_b.shape
        self.ranks[name] = (d_out, factors.lora_a.shape[1], rank)
        if self._file is None:
            self._kept[name] = factors
            return
        self._places[name] = (self._file.tell(), tuple(factors.lora_a.shape), tuple(factors.lora_b.shape))
        for tensor in (factors.lora_a, factors.lora_b):
            self._file.write(tensor.contiguous().numpy().data)

    def __getitem__(self, name: str) -> LoraFactors:
        if self._file is None:
            return self._kept[name]
        offset, shape_a, shape_b = self._places[name]
        if self._view is None:
            self._file.flush()
            self._view = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        lora_a = self._tensor(offset, shape_a)
        return LoraFactors(lora_a=lora_a, lora_b=self._tensor(offset + lora_a.numel() * 4, shape_b))

    def _tensor(self, offset: int, shape: tuple[int, ...]) -> torch.Tensor:
        numbers = np.frombuffer(self._view or b"", dtype=np.float32, count=int(np.prod(shape)), offset=offset)
        return torch.from_numpy(numbers.reshape(shape).copy())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.ranks))

    def __len__(self) -> int:
        return len(self.ranks)

    def close(self) -> None:
        """Let go of the file; the caller removes it."""
        if self._view is not None:
            self._view.close()
        if self._file is not None:
            self._file.close()
