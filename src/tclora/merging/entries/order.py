"""Exact order statistics of the magnitudes of a delta, in bounded memory.

In: tiles of entries, and places in the ascending order of each adapter's magnitudes. Out: the magnitudes there.
The bits of a non-negative double, read as an integer, are in the order of the doubles. So one pass counts entries by
their leading 16 bits, which tells in which group a place lies; the group, about a hundredth of the entries, is then
collected and sorted. A group that is too large to collect is first divided by its next bits.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tclora.shapes import Float, Int

__all__ = ["EntrySource", "order_magnitudes"]

# Bits that remain below the known ones after each count; a double without its sign has 63.
_BITS = 63
_REMAIN = (47, 31, 15, 0)
# Entries collected over all adapters: 64 MB.
_COLLECTED = 1 << 23


@runtime_checkable
class EntrySource(Protocol):
    """Entries of `n` adapters in tiles `(n, ...)`, the same at every reading; a `DeltaSource`, or many of them."""

    @property
    def n(self) -> int:
        """How many adapters."""
        ...

    def tiles(self) -> Iterator[tuple[Any, Tensor]]:
        """A label, of no use here, and a tile that the reader may overwrite."""
        ...


def order_magnitudes(
    source: EntrySource, places: Int[Tensor, "n s"], *, collected: int = _COLLECTED
) -> Float[Tensor, "n s"]:
    """The magnitudes at `places` (from 0) of each adapter's entries in ascending order.

    Exact: each is the magnitude of an entry, and as many entries lie below or at it as its place says. Subnormal
    numbers may count as 0.
    """
    known, rest = torch.zeros_like(places), places.clone()
    above = _BITS
    for remain in _REMAIN:
        counts = _count(source, known, above, remain)
        ends = counts.cumsum(dim=2)
        group = torch.searchsorted(ends, rest[:, :, None], right=True)
        rest = rest - (ends - counts).gather(2, group)[:, :, 0]
        known = (known << (above - remain)) + group[:, :, 0]
        above = remain
        sizes = torch.where(known == 0, 0, counts.gather(2, group)[:, :, 0])
        if remain and int(sizes.sum()) <= collected:
            return _collect(source, known, remain, rest, sizes)
    return known.view(torch.float64)


def _keys(entries: Tensor) -> Tensor:
    return entries.abs_().view(torch.int64).flatten()


def _count(source: EntrySource, known: Tensor, above: int, remain: int) -> Tensor:
    """How many entries of each group have which next bits, `(n, s, 2**bits)`."""
    n_groups = 1 << (above - remain)
    counts = known.new_zeros(*known.shape, n_groups)
    for _, tile in source.tiles():
        for i in range(source.n):
            keys = _keys(tile[i])
            for k in range(known.shape[1] if above < _BITS else 1):
                # At first all entries are one group, and every place asks for the same counts.
                inside = keys if above == _BITS else keys[(keys >> above) == known[i, k]]
                counts[i, k] += torch.bincount((inside >> remain) & (n_groups - 1), minlength=n_groups)
    return counts[:, :1].expand_as(counts).contiguous() if above == _BITS else counts


def _collect(source: EntrySource, known: Tensor, remain: int, rest: Tensor, sizes: Tensor) -> Tensor:
    """Sort the groups that are left, of `sizes` entries, and read off the places in them."""
    groups = {(i, k): known.new_empty(int(sizes[i, k])) for i, k in sizes.nonzero().tolist()}
    filled = dict.fromkeys(groups, 0)
    for _, tile in source.tiles():
        for (i, k), group in groups.items():
            keys = _keys(tile[i])
            inside = keys[(keys >> remain) == known[i, k]]
            group[filled[i, k] : filled[i, k] + len(inside)] = inside
            filled[i, k] += len(inside)
    values = torch.zeros_like(known)
    for (i, k), group in groups.items():
        values[i, k] = group.kthvalue(int(rest[i, k]) + 1).values
    return values.view(torch.float64)
