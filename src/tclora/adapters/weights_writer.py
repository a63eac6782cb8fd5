"""Writing a safetensors file tensor by tensor, so that no more than one module is in memory at a time.

In: names with shapes, one dtype, and the tensors in that order. Out: the bytes that the safetensors library writes
for the same tensors, on disk. Refused: tensors that are not the ones announced, which is a mistake of the caller.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tclora.errors import ShapeError

__all__ = ["STORED_DTYPES", "write_tensors"]

STORED_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write tensors in the order of `shapes`, and wait until they are on disk.

    Raises:
        ShapeError: the tensors are not those of `shapes`, in its order.
        OSError: the file system refused.
    """
    announced = list(shapes.items())
    with open(path, "xb") as file:
        file.write(_header(shapes, dtype))
        for name, tensor in tensors:
            expected = announced.pop(0) if announced else ("no more tensors", ())
            if (name, tuple(tensor.shape)) != expected or tensor.dtype != dtype:
                raise ShapeError("a tensor is not the one announced", found=(name, tensor.shape), expected=expected)
            rows = tensor.detach().cpu().contiguous()
            # The stride of an axis of length one may be anything, and bytes are not seen through that.
            flat = rows.as_strided((rows.numel(),), (1,))
            file.write(flat.view(torch.uint8).numpy().data)
        if announced:
            raise ShapeError("tensors announced were not written", found=announced[0])
        file.flush()
        os.fsync(file.fileno())


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": STORED_DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    # The format pads its header so that the data begins at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
