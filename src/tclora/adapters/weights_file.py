"""The header of a safetensors file, checked before anything else opens it.

In: a path. Out: dtype and shape of each tensor, by name; no tensor is read. Refused: what is not a regular file,
lengths that the file cannot hold, headers too large to be an adapter's, tensors given twice.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tclora.adapters.files import file_size, parse_json
from tclora.errors import AdapterError

__all__ = ["MAX_TENSORS", "TensorInfo", "read_header"]

MAX_TENSORS = 100_000
# 100,000 tensors need some 20 MB; the format itself stops at 100 MB, which takes seconds and a gigabyte to parse.
MAX_HEADER_BYTES = 50_000_000
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class TensorInfo(NamedTuple):
    """What the header says of one tensor; `dtype` is the format's own name, as in BF16."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> Mapping[str, TensorInfo]:
    """Read the names, dtypes and shapes of a safetensors file, in the order of its names.

    Raises:
        AdapterError: the file is not regular, is truncated, claims what it cannot hold, has too many tensors, or is
            not of this format.
    """
    size = file_size(path)
    raw = _header_bytes(path, size)
    header = parse_json(raw, what=f"the header of {path.name}", where=path.parent)
    header.pop("__metadata__", None)
    data_bytes = size - 8 - len(raw)
    return {name: _tensor_info(name, header[name], data_bytes, path) for name in sorted(header)}


def _header_bytes(path: Path, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or length > size - 8:
                raise _damaged(path, f"a header of {length} bytes in a file of {size}", "a header within the file")
            if length > MAX_HEADER_BYTES:
                raise _damaged(path, f"a header of {length} bytes", f"at most {MAX_HEADER_BYTES}")
            raw = file.read(length)
    except OSError as error:
        raise AdapterError(f"cannot read {path.name}", where=path.parent, found=error.strerror) from None
    # Counted before parsing: a header of small objects would cost seconds and gigabytes only to be refused.
    if raw.count(b"{") > MAX_TENSORS + 2 or raw.count(b",") + raw.count(b"[") > 20 * MAX_TENSORS:
        raise _damaged(path, f"more than {MAX_TENSORS} tensors", "the tensors of one adapter")
    return raw


def _tensor_info(name: str, entry: object, data_bytes: int, path: Path) -> TensorInfo:
    if not name.isprintable():
        raise _damaged(path, f"the tensor name {name[:200]!r}", "names without control characters")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise _damaged(path, f"no dtype, shape and offsets for {name[:200]}", "an entry of the format")
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 8:
        raise _damaged(path, f"shape {str(shape)[:100]} for {name[:200]}", "a few sizes of 0 or more")
    if not 0 <= start <= end <= data_bytes:
        found = f"{name[:200]} at bytes {start} to {end}, with {data_bytes} bytes of data in the file"
        raise _damaged(path, found, "tensors within the file; it may be truncated")
    if dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != end - start:
        raise _damaged(path, f"{end - start} bytes for {name[:200]} {dtype} {tuple(shape)}", "bytes that fit the shape")
    return TensorInfo(dtype, tuple(shape))


def _damaged(path: Path, found: str, expected: str) -> AdapterError:
    return AdapterError(
        f"{path.name} is damaged or is not a safetensors file",
        where=path.parent,
        found=found,
        expected=expected,
        do="copy or download the adapter again",
    )
