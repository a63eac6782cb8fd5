"""Batched tensor algebra of low-rank updates: compression, CP models, low-rank tools. Knows nothing of LoRA files.

A `ModuleStack` goes in; `compress_stack` gives a small exact core; methods work on the core, `cp_als` among them;
`lift` brings a result back as a `LowRankDelta`.
"""

from tclora.algebra.compress import CompressedStack, compress_stack, lift
from tclora.algebra.cp import cp_als
from tclora.algebra.cp_model import CpFactors, CpFit, relative_residual, triple_cosine
from tclora.algebra.lowrank import balance, numerical_rank, relative_distance, svd_of_product, truncate_core_sum
from tclora.algebra.stack import LowRankDelta, ModuleStack

__all__ = [
    "CompressedStack",
    "CpFactors",
    "CpFit",
    "LowRankDelta",
    "ModuleStack",
    "balance",
    "compress_stack",
    "cp_als",
    "lift",
    "numerical_rank",
    "relative_distance",
    "relative_residual",
    "svd_of_product",
    "triple_cosine",
    "truncate_core_sum",
]
