"""Per-row results on disk, so that a killed evaluation goes on where it was.

One JSON file for each pair of an adapter (or the bare base) and the rows asked of it. Its name is the digest of the
base, the adapter's weights and config, the tokens of the rows and the answer length: a retrained adapter or another
prompt makes another name, so nothing stale can be read. A file that is damaged, or holds another number of rows, is
computed again. Batch size and device are not in the name: they move the last digits and not the quantity.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tclora.adapters import Adapter, weights_digest
from tclora.artifacts import digest_of, read_json, write_bytes
from tclora.errors import ArtifactError
from tclora.evaluation.rows import Row, RowSet
from tclora.models import Base

__all__ = ["adapter_digest", "base_digest", "load_rows", "row_key", "store_rows"]

_FORMAT = "tclora.evaluation/1"
# Enough values of each parameter to tell two trainings apart, few enough to cost nothing at 70 B.
_PROBES = 64


def base_digest(base: Base) -> str:
    """Digest the base's name, its tokenizer's end token, and the shape, dtype and a few values of each parameter."""
    digest = hashlib.sha256(f"{base.name}\0{base.revision}\0{base.tokenizer.eos_token_id}\0".encode())
    for name, parameter in base.model.named_parameters():
        values = parameter.detach().reshape(-1)
        probes = values[:: max(1, values.numel() // _PROBES)].to(device="cpu", dtype=torch.float32)
        digest.update(f"{name}\0{tuple(parameter.shape)}\0{parameter.dtype}\0".encode() + probes.numpy().tobytes())
    return digest.hexdigest()


def adapter_digest(adapter: Adapter) -> str:
    """Digest the adapter's weights and, for one read from a folder, its config, where the scaling stands."""
    config = adapter.source.config_sha256 if adapter.source else None
    return digest_of([weights_digest(adapter), config])


def row_key(base: str, adapter: str | None, row_set: RowSet, wanted: Sequence[int]) -> str:
    """Name the file of one unit of work, from the digests of base and adapter and the rows themselves."""
    rows = [[list(row_set.tokens[i].ids), row_set.tokens[i].n_prompt] for i in wanted]
    return digest_of([_FORMAT, base, adapter, row_set.max_new_tokens, rows])


def load_rows(cache: Path, key: str, n_rows: int) -> list[Row] | None:
    """Read a unit's results; None where there are none, or where the file is not whole."""
    path = _path(cache, key)
    if not path.is_file():
        return None
    try:
        data = read_json(path)
    except ArtifactError:
        # The key stands for the whole request, so the results can always be had again.
        return None
    if not isinstance(data, dict) or data.get("key") != key or not isinstance(data.get("rows"), list):
        return None
    rows = [_row(value) for value in data["rows"]]
    sound = len(rows) == n_rows and None not in rows and data.get("digest") == _rows_digest(data["rows"])
    return [row for row in rows if row is not None] if sound else None


def store_rows(cache: Path, key: str, rows: Sequence[Row]) -> None:
    """Write a unit's results, whole or not at all."""
    values = [list(row) if isinstance(row, tuple) else row for row in rows]
    content = {"key": key, "digest": digest_of(values), "rows": values}
    write_bytes(_path(cache, key), json.dumps(content, allow_nan=False).encode())


def _path(cache: Path, key: str) -> Path:
    return cache / f"{key}.json"


def _rows_digest(values: list[Any]) -> str | None:
    try:
        return digest_of(values)
    except ValueError:
        # NaN can be read from a damaged file, and has no digest.
        return None


def _row(value: Any) -> Row | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], float) and isinstance(value[1], int):
        return (value[0], value[1]) if math.isfinite(value[0]) and value[1] > 0 else None
    return None
