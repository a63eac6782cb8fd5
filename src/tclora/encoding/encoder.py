"""What every encoder is: texts in, unit rows out.

A text in which an encoder finds nothing (an empty one, or none of the words it was fitted on) has no direction; its
row stays zero rather than being given an arbitrary one. No row holds NaN or infinity.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from tclora.errors import NumericalError
from tclora.shapes import Float

__all__ = ["Encoder", "RowError", "embed_held", "unit_rows"]


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors whose distances follow their meaning."""

    @property
    def name(self) -> str:
        """The name in `encode.encoder`."""
        ...

    @property
    def d_embed(self) -> int:
        """The length of a row."""
        ...

    @property
    def batch_size(self) -> int:
        """How many texts are best given to one call; fewer or more work too."""
        ...

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        """One float32 row of unit length for each text, zero where a text holds nothing the encoder knows."""
        ...


class RowError(NumericalError):
    """A row is not finite; `row` is its index in what was given, so that a caller can name the text."""

    row: int = 0


def unit_rows(rows: Float[np.ndarray, "n_examples d_embed"], *, where: str) -> Float[np.ndarray, "n_examples d_embed"]:
    """Rows scaled to unit length in float32; zero rows stay zero.

    Raises:
        RowError: a row holds NaN or infinity; names its index.
    """
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        error = RowError("an embedding holds NaN or infinity", where=f"{where}, row {bad}", expected="finite numbers")
        error.row = bad
        raise error
    # In float64, and after division by the largest entry: squares of extreme entries would overflow or vanish.
    wide = rows.astype(np.float64)
    wide /= np.where((largest := np.abs(wide).max(axis=1, initial=0, keepdims=True)) > 0, largest, 1)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def embed_held(
    texts: Sequence[str], embed: Callable[[list[str]], np.ndarray], d_embed: int, *, where: str
) -> Float[np.ndarray, "n_examples d_embed"]:
    """Unit rows of what `embed` makes of the texts that hold anything; zero rows for blank ones.

    Raises:
        RowError: a row holds NaN or infinity; its index counts all texts, the blank ones too.
    """
    rows = np.zeros((len(texts), d_embed), dtype=np.float32)
    held = [index for index, text in enumerate(texts) if text.strip()]
    if held:
        rows[held] = embed([texts[index] for index in held])
    return unit_rows(rows, where=where)
