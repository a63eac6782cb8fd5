"""Which training rows a method that learns may read: so many of each adapter's own, drawn by a seed.

In: the rows of each adapter and how many are asked for. Out: a pool for each. `even`: so many of each adapter. `size`:
as many in all, each adapter by its share of the rows, so that what is common stays common; at least one of each. For a
method that needs no labels, `without_responses` takes them away, so that none can be read by mistake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tclora.config.schema import LearnShare
from tclora.data import Example

__all__ = ["drawn_pools", "without_responses"]


def drawn_pools(
    rows: Mapping[str, Sequence[Example]], n_rows: int, share: LearnShare, seed: int
) -> dict[str, list[Example]]:
    """Some rows of each adapter by its name, in the order of its file; `n_rows` of each on average."""
    sizes = [len(own) for own in rows.values()]
    wanted = [n_rows] * len(sizes)
    if share == "size":
        wanted = [max(1, round(n_rows * len(sizes) * size / sum(sizes))) for size in sizes]
    return {
        name: _drawn(own, most, [seed, 1, place])
        for place, ((name, own), most) in enumerate(zip(rows.items(), wanted, strict=True))
    }


def without_responses(rows: Sequence[Example]) -> list[Example]:
    """The prompts; a text that asks nothing is all there is, and stays."""
    asking = [bool(row.instruction or row.input or row.history) for row in rows]
    return [replace(row, output="") if asks else row for row, asks in zip(rows, asking, strict=True)]


def _drawn(rows: Sequence[Example], k: int, key: list[int]) -> list[Example]:
    chosen = np.random.default_rng(key).permutation(len(rows))[:k]
    return [rows[int(i)] for i in sorted(chosen)]
