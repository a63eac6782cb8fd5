"""The deltas of one module, read in tiles of whole rows so that they never exist in full.

In: the LoRA columns of `n` adapters. Out: tiles `(n, rows, cols)` of `delta_i = out_columns_i @ in_columns_i.T` in
float64, a few megabytes each. Every pass gives the same tiles, bit for bit, so a bound found in one pass holds exactly
in the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra.stack import blocks_of
from tclora.shapes import Float

__all__ = ["DeltaSource"]

# Entries of one tile over all adapters: 4 MB of doubles, which caches hold.
_TILE_ENTRIES = 1 << 19


@dataclass(frozen=True)
class DeltaSource:
    """`n` low-rank matrices of one module; adapter `i` owns `ranks[i]` columns of both sides."""

    name: str
    out_columns: Float[Tensor, "rows P"]
    in_columns: Float[Tensor, "cols P"]
    ranks: tuple[int, ...]
    tile_entries: int = _TILE_ENTRIES

    @property
    def n(self) -> int:
        """How many adapters."""
        return len(self.ranks)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a delta."""
        return self.out_columns.shape[0], self.in_columns.shape[0]

    @property
    def n_entries(self) -> int:
        """Entries of one delta."""
        return self.shape[0] * self.shape[1]

    def tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and their entries `(n, rows, cols)`; the reader may overwrite them, and the next tile does."""
        rows, cols = self.shape
        height = min(rows, max(1, self.tile_entries // (self.n * cols)))
        in_rows = self.in_columns.mT.contiguous()
        buffer = self.out_columns.new_empty(self.n, height, cols)
        for start in range(0, rows, height):
            part = slice(start, min(start + height, rows))
            tile = buffer[:, : part.stop - start]
            for i, block in enumerate(blocks_of(self.ranks)):
                if self.ranks[i]:
                    torch.mm(self.out_columns[part, block], in_rows[block], out=tile[i])
                else:
                    tile[i].zero_()
            yield part, tile
