"""What the tests of the entry-wise methods share: one small library, and a method's result as a dense matrix."""

import dataclasses

import numpy as np
import torch
from entry_oracle import dense_deltas, random_stack

from tclora.algebra import ModuleStack
from tclora.merging import MERGE_METHODS
from tclora.merging.method import Params

# One SVD of a well-scaled matrix and back: some hundred roundings of 1e-16.
EXACT = 1e-12
# The rank that holds any matrix of 24 by 16.
FULL = 16
RANKS = (2, 3, 0, 1)
WEIGHTS = [0.5, 0.9, 0.4, 0.2]


def library(seed: int = 0) -> tuple[ModuleStack, list[np.ndarray]]:
    """Four adapters, one of which lacks the module, and their deltas."""
    stack = random_stack(24, FULL, RANKS, seed)
    return stack, dense_deltas(stack)


def merged(method: str, params: Params, stack: ModuleStack | None = None, weights=WEIGHTS) -> torch.Tensor:
    """The dense matrix that a method returns for the first module."""
    stack = library()[0] if stack is None else stack
    given_weights = torch.tensor(weights, dtype=torch.float64).expand(stack.m, -1)
    return MERGE_METHODS[method](stack, params, given_weights).delta.dense()[0]


def planted(*rows: list[float]):
    """One adapter per row, whose delta is that row; of rank 1 and exact in floating point."""
    out_stack = torch.ones(1, 1, len(rows), dtype=torch.float64)
    in_stack = torch.tensor(rows, dtype=torch.float64).T[None].contiguous()
    return ModuleStack(("planted",), out_stack, in_stack, (1,) * len(rows))


def gauged(stack, turn):
    """The first adapter written with other factors: `(B S, S^-1 A)`."""
    out_stack, in_stack = stack.out_stack.clone(), stack.in_stack.clone()
    out_stack[:, :, :2] = out_stack[:, :, :2] @ turn
    in_stack[:, :, :2] = in_stack[:, :, :2] @ torch.linalg.inv(turn).mT
    return dataclasses.replace(stack, out_stack=out_stack, in_stack=in_stack)
