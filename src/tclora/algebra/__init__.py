"""Batched tensor algebra of low-rank updates: compression, CP models, low-rank tools. Knows nothing of LoRA files.

A `ModuleStack` goes in; `compress_stack` gives a small exact core; methods work on the core, `cp_als` among them;
`lift` brings a result back as a `LowRankDelta`.
"""

from tclora.algebra.column_gram import column_gram
from tclora.algebra.compress import CompressedStack, compress_stack, lift
from tclora.algebra.cp import cp_als
from tclora.algebra.cp_bounds import CpBounds, bounds_of_spectra, cp_bounds
from tclora.algebra.cp_budget import RankCurve, share_budget
from tclora.algebra.cp_model import CpFactors, CpFit, relative_residual, triple_cosine
from tclora.algebra.cp_rank import (
    CpSolver,
    RankRule,
    fit_at_ranks,
    fit_to_energy,
    parse_rank_rule,
    rank_curves,
)
from tclora.algebra.lowrank import balance, numerical_rank, relative_distance, svd_of_product, truncate_core_sum
from tclora.algebra.stack import LowRankDelta, ModuleStack, at_least_single, blocks_of
from tclora.algebra.tucker import TuckerFit, tucker_hooi

__all__ = [
    "CompressedStack",
    "CpBounds",
    "CpFactors",
    "CpFit",
    "CpSolver",
    "LowRankDelta",
    "ModuleStack",
    "RankCurve",
    "RankRule",
    "TuckerFit",
    "at_least_single",
    "balance",
    "blocks_of",
    "bounds_of_spectra",
    "column_gram",
    "compress_stack",
    "cp_als",
    "cp_bounds",
    "fit_at_ranks",
    "fit_to_energy",
    "lift",
    "numerical_rank",
    "parse_rank_rule",
    "rank_curves",
    "relative_distance",
    "relative_residual",
    "share_budget",
    "svd_of_product",
    "triple_cosine",
    "truncate_core_sum",
    "tucker_hooi",
]
