"""Which entries of each adapter stay: by magnitude, at random, or at random by rank of magnitude.

In: a `DeltaSource` and an `EntryRule`. Out: a function that zeroes what goes in a tile, in place. Bounds and norms are
found by passes over the source first. Random numbers are those of one generator per adapter and module, by
`mask_generator`, laid over the entries row by row; so a tile of any height gets the same ones.

Of entries of equal magnitude at a bound all stay, so nothing depends on an order among equals.

Sources: magnitude, Yadav et al. 2023 (TIES, arXiv 2306.01708); random, Yu et al. 2023 (DARE, arXiv 2311.03099); ranked,
Deep et al. 2024 (DELLA, arXiv 2406.11617); band, Davari and Belilovsky 2023 (Model Breadcrumbs, arXiv 2312.06795) in
mergekit's reading, where `density` counts what stays after both ends are cut. mergekit cuts the top by a slice that
ends at `-n_top` and keeps nothing where `n_top` is 0; here the band is given by its two order statistics.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tclora.merging.entries.deltas import DeltaSource
from tclora.merging.entries.order import order_magnitudes
from tclora.merging.entries.rule import EntryRule

__all__ = ["Keeper", "fit_keeper", "kept_count", "mask_generator", "row_ranks"]

Keeper = Callable[[Tensor, slice], None]
"""Zeroes in place what goes in a tile `(n, rows, cols)`, given which rows it holds."""


def fit_keeper(source: DeltaSource, rule: EntryRule) -> Keeper:
    """The keeper of one module, with its bounds and norms measured."""
    if rule.keep == "all" or (min(rule.density) >= 1 and rule.bounds is None):
        return lambda tile, rows: None
    keeper = _FITS[rule.keep](source, rule)
    return _with_l1_norms(source, keeper) if rule.rescale == "l1" else keeper


def kept_count(density: float, n_entries: int) -> int:
    """How many entries a density keeps: rounded down, and at least one."""
    return n_entries if density >= 1 else max(1, int(density * n_entries))


def mask_generator(seed: int, module: str, adapter: int, *, skip: int = 0) -> np.random.Generator:
    """The generator of the mask of one adapter in one module, `skip` numbers on.

    Seeded by `[seed, adapter, four words of the SHA-256 digest of the module's name]`.
    """
    words = np.frombuffer(hashlib.sha256(module.encode()).digest()[:16], dtype="<u4")
    bits = np.random.PCG64([seed, adapter, *(int(word) for word in words)])
    return np.random.Generator(bits.advance(skip) if skip else bits)


def row_ranks(tile: Tensor) -> Tensor:
    """The rank of each entry's magnitude in its row, from 0; `(rows, cols)`, among equals by column.

    The columns take the place of the last bits of the magnitudes, so that one sort of integers gives the order;
    magnitudes equal in all but these (2**-35 relative in 131072 columns) count as equal.
    """
    cols = tile.shape[1]
    column_bits = (1 << max(1, (cols - 1).bit_length())) - 1
    columns = torch.arange(cols, device=tile.device)
    keys = (tile.abs().view(torch.int64) & ~column_bits) | columns
    order = _sorted_rows(keys) & column_bits
    return torch.empty_like(order).scatter_(1, order, columns.expand_as(order))


def _sorted_rows(keys: Tensor) -> Tensor:
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    # numpy sorts integers several times faster than torch does on one core.
    keys.numpy().sort(axis=1)
    return keys


def _largest(source: DeltaSource, rule: EntryRule) -> Keeper:
    least = rule.bounds
    if least is None:
        places = [[source.n_entries - kept_count(density, source.n_entries)] for density in rule.density]
        least = order_magnitudes(source, torch.tensor(places, device=source.out_columns.device))[:, 0].tolist()

    def keep(tile: Tensor, rows: slice) -> None:
        for i, bound in enumerate(_just_below(least)):
            torch.hardshrink(tile[i], bound, out=tile[i])

    return keep


def _band(source: DeltaSource, rule: EntryRule) -> Keeper:
    total = source.n_entries
    places = []
    for density in rule.density:
        count = kept_count(density, total)
        n_top = min(int(rule.gamma * total), total - count)
        places.append([total - n_top - count, total - n_top - 1])
    bounds = order_magnitudes(source, torch.tensor(places, device=source.out_columns.device))
    least, most = bounds[:, 0].tolist(), bounds[:, 1].tolist()

    def keep(tile: Tensor, rows: slice) -> None:
        for i, bound in enumerate(_just_below(least)):
            torch.hardshrink(tile[i], bound, out=tile[i])
            tile[i].masked_fill_(tile[i].abs() > most[i], 0)

    return keep


def _just_below(bounds: Sequence[float]) -> list[float]:
    """hardshrink keeps what is larger than its bound; one float lower it keeps the bound too."""
    return [math.nextafter(bound, -math.inf) for bound in bounds]


def _random(source: DeltaSource, rule: EntryRule) -> Keeper:
    def keep(tile: Tensor, rows: slice) -> None:
        for i, density in enumerate(rule.density):
            if density < 1 and source.ranks[i]:
                tile[i].masked_fill_(_uniform(source, rule.seed, i, rows) >= density, 0)
                if rule.rescale == "inverse":
                    tile[i].div_(density)

    return keep


def _ranked(source: DeltaSource, rule: EntryRule) -> Keeper:
    last = source.shape[1] - 1

    def keep(tile: Tensor, rows: slice) -> None:
        for i, density in enumerate(rule.density):
            if density < 1 and source.ranks[i]:
                # From 0 to 1 over the row; a row of one entry lies in the middle.
                place = row_ranks(tile[i]).double() / last if last else torch.full_like(tile[i], 0.5)
                chance = place.mul_(2 * rule.epsilon).add_(density - rule.epsilon)
                tile[i].masked_fill_(_uniform(source, rule.seed, i, rows) >= chance, 0)
                if rule.rescale == "inverse":
                    tile[i].div_(chance)

    return keep


def _uniform(source: DeltaSource, seed: int, adapter: int, rows: slice) -> Tensor:
    """Uniform numbers in [0, 1) for these rows of one adapter."""
    cols = source.shape[1]
    generator = mask_generator(seed, source.name, adapter, skip=rows.start * cols)
    return torch.from_numpy(generator.random((rows.stop - rows.start, cols))).to(source.out_columns.device)


def _with_l1_norms(source: DeltaSource, keeper: Keeper) -> Keeper:
    """What the keeper leaves of each adapter, brought back to the L1 norm of its delta in this module."""
    before = after = torch.zeros(source.n, dtype=torch.float64, device=source.out_columns.device)
    for rows, tile in source.tiles():
        before = before + tile.abs().sum(dim=(1, 2))
        keeper(tile, rows)
        after = after + tile.abs().sum(dim=(1, 2))
    factor = torch.where(after > 0, before / torch.where(after > 0, after, 1), 1)

    def keep(tile: Tensor, rows: slice) -> None:
        keeper(tile, rows)
        tile.mul_(factor[:, None, None])

    return keep


_FITS: dict[str, Callable[[DeltaSource, EntryRule], Keeper]] = {
    "largest": _largest,
    "band": _band,
    "random": _random,
    "ranked": _ranked,
}
