"""A second, independent reading of a PEFT LoRA folder, for checking what was written against what was read.

In: a folder that the reader proper (`tclora.adapters`) has accepted. Out: the stored factors of each module in float64
and the scale between their product and the delta. It shares no code with that reader: the bytes are taken from the file
by the format's own description, names and scales by PEFT's rules (`(.*\\.)?(KEY)$`, `alpha / r`, `alpha / sqrt(r)`).
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tclora.errors import AdapterError
from tclora.shapes import Float

__all__ = ["RawLora"]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAME = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.\w+)??(?:\.weight)?")
# Keys that are names match by `re` as PEFT matches them; a nested quantifier could make `re` run for ever.
_SIMPLE_KEY = re.compile(r"[^*+{]*(?:\.\*[^*+{]*)?")


class RawLora:
    """The stored tensors and the config of one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with open(folder / "adapter_model.safetensors", "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self._start = 8 + length
        self._names: dict[str, dict[str, dict[str, Any]]] = {}
        for name, entry in header.items():
            if found := _NAME.fullmatch(name):
                self._names.setdefault(found["path"], {})[found["side"]] = entry

    @property
    def paths(self) -> tuple[str, ...]:
        """The module paths, sorted."""
        return tuple(sorted(self._names))

    def factors(self, path: str) -> tuple[Float[Tensor, "d_out r"], Float[Tensor, "r d_in"], float]:
        """`lora_b` and `lora_a` of a module as stored, and the factor between `lora_b @ lora_a` and the delta."""
        lora_a, lora_b = (self._read(self._names[path][side]) for side in "AB")
        return lora_b, lora_a, self._scale(path, lora_a.shape[0])

    def dtype(self, path: str) -> torch.dtype:
        """The dtype in which a module's factors are stored."""
        return _DTYPES[self._names[path]["A"]["dtype"]]

    def _read(self, entry: dict[str, Any]) -> Tensor:
        start, end = entry["data_offsets"]
        with open(self.folder / "adapter_model.safetensors", "rb") as file:
            file.seek(self._start + start)
            data = bytearray(file.read(end - start))
        return torch.frombuffer(data, dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"]).double()

    def _scale(self, path: str, r: int) -> float:
        alpha = self._pattern("alpha_pattern", path, "lora_alpha")
        rank = self._pattern("rank_pattern", path, "r")
        if rank != r:
            raise AdapterError("the rank in the config is not the tensors'", where=path, found=r, expected=rank)
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _pattern(self, table: str, path: str, otherwise: str) -> float:
        values = (value for key, value in (self.config.get(table) or {}).items() if _matches(key, path))
        return float(next(values, self.config[otherwise]))


def _matches(key: str, path: str) -> bool:
    if _SIMPLE_KEY.fullmatch(key):
        return re.match(rf"(.*\.)?({key})$", path) is not None
    from tclora.adapters.patterns import PatternTable

    return PatternTable.of([key]).key_for(path) is not None
