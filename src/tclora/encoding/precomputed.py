"""Embeddings that the user brings: one `.npy` array with a row for each example, in the order of the examples.

Refused: anything but a regular `.npy` file of plain numbers (never a pickle, which could run code), a wrong number of
rows, NaN and infinity.
"""

import os
from pathlib import Path

import numpy as np

from tclora.encoding.encoder import unit_rows
from tclora.errors import ConfigError, DataError
from tclora.shapes import Float

__all__ = ["read_precomputed"]


def read_precomputed(path: str | Path | None, n_rows: int) -> Float[np.ndarray, "n_rows d_embed"]:
    """Read `n_rows` embeddings and scale them to unit length.

    Raises:
        ConfigError: no path is given.
        DataError: the file is not an array of `n_rows` rows of numbers.
        NumericalError: a row holds NaN or infinity; names its index.
    """
    if not path:
        raise ConfigError("the precomputed encoder needs a file", where="encode.path", expected="a .npy file")
    rows = _load(Path(os.path.expanduser(path)))
    if rows.ndim != 2 or rows.shape[0] != n_rows or rows.shape[1] < 1 or rows.dtype.kind not in "fiu":
        raise DataError(
            "the embeddings do not fit the examples",
            where=path,
            found=f"shape {rows.shape} of {rows.dtype}",
            expected=f"({n_rows}, d_embed) of numbers: each training example, then each dev example",
            do="embed the examples in the data stage's train.jsonl and dev.jsonl, in their order",
        )
    return unit_rows(np.asarray(rows, dtype=np.float64), where=str(path))


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError("there is no such embeddings file", where=path, expected="a regular .npy file")
    try:
        # Mapped, not read: a header that claims more than the file holds then fails at once, without memory.
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        found = str(error).split("\n")[0][:200]
        raise DataError("the embeddings cannot be read", where=path, found=found, expected="one .npy array") from None
    if not isinstance(rows, np.ndarray):
        raise DataError("the embeddings cannot be read", where=path, found="an .npz archive", expected="one .npy array")
    return rows
