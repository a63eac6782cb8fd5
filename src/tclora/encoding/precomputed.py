"""Embeddings that the user brings: one `.npy` array with a row for each example, in the order of the examples.

The array is mapped and read a chunk at a time. Refused: anything but a regular `.npy` file of plain numbers (never a
pickle, which could run code), a wrong number of rows, NaN and infinity.
"""

import os
from pathlib import Path

import numpy as np

from tclora.encoding.encoder import unit_rows
from tclora.errors import ConfigError, DataError
from tclora.shapes import Float

__all__ = ["open_precomputed", "precomputed_path", "read_precomputed"]


def precomputed_path(path: str | Path | None) -> Path:
    """The file that `encode.path` names; `~` and `$VARIABLES` are understood.

    Raises:
        ConfigError: no path is given.
    """
    if not path:
        raise ConfigError("the precomputed encoder needs a file", where="encode.path", expected="a .npy file")
    return Path(os.path.expandvars(path)).expanduser()


def open_precomputed(path: str | Path | None, n_rows: int | None = None) -> np.ndarray:
    """Map the user's matrix, (n_rows, d_embed) of numbers as they are in the file; nothing is read yet.

    Raises:
        ConfigError: no path is given.
        DataError: the file is not an array of `n_rows` rows of numbers.
    """
    rows = _mapped(precomputed_path(path))
    if rows.ndim != 2 or n_rows not in (None, rows.shape[0]) or rows.shape[1] < 1 or rows.dtype.kind not in "fiu":
        raise DataError(
            "the embeddings do not fit the examples",
            where=path,
            found=f"shape {rows.shape} of {rows.dtype}",
            expected=f"({'n' if n_rows is None else n_rows}, d_embed) of numbers: each training example, then each dev "
            "example",
            do="embed the examples in the data stage's train.jsonl and dev.jsonl, in their order",
        )
    return rows


def read_precomputed(path: str | Path | None, n_rows: int) -> Float[np.ndarray, "n_rows d_embed"]:
    """Read `n_rows` embeddings at once and scale them to unit length.

    Raises:
        ConfigError: no path is given.
        DataError: the file is not an array of `n_rows` rows of numbers.
        NumericalError: a row holds NaN or infinity; names its index.
    """
    return unit_rows(np.asarray(open_precomputed(path, n_rows), dtype=np.float64), where=str(path))


def _mapped(path: Path) -> np.ndarray:
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
