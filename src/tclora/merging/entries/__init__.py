"""Merging entry by entry: prune, elect and combine, on tiles of the deltas or in a smaller space that holds them."""

from tclora.merging.entries.combine import elected, vote, weighted_sum
from tclora.merging.entries.deltas import DeltaSource
from tclora.merging.entries.keep import fit_keeper, kept_count, mask_generator, row_ranks
from tclora.merging.entries.library import whole_bounds
from tclora.merging.entries.merge_entries import merge_entries, merged_matrix
from tclora.merging.entries.order import order_magnitudes
from tclora.merging.entries.rule import Election, EntryRule, Keep
from tclora.merging.entries.spaces import Space, enter_space
from tclora.merging.entries.tiled import TiledMatrix, Truncated, best_of_rank

__all__ = [
    "DeltaSource",
    "Election",
    "EntryRule",
    "Keep",
    "Space",
    "TiledMatrix",
    "Truncated",
    "best_of_rank",
    "elected",
    "enter_space",
    "fit_keeper",
    "kept_count",
    "mask_generator",
    "merge_entries",
    "merged_matrix",
    "order_magnitudes",
    "row_ranks",
    "vote",
    "weighted_sum",
    "whole_bounds",
]
