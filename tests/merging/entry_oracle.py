"""The entry-wise rules once more, dense, in numpy, written from their definitions; the tests compare with these.

Of the package only the container of the inputs is used. An adapter's delta is a matrix; a library is a list of them.
"""

import hashlib

import numpy as np
import torch

from tclora.algebra import ModuleStack


def random_stack(d_out: int, d_in: int, ranks: tuple[int, ...], seed: int = 0, m: int = 1) -> ModuleStack:
    generator = torch.Generator().manual_seed(seed)
    width = sum(ranks)
    out_stack = torch.randn(m, d_out, width, generator=generator, dtype=torch.float64)
    in_stack = torch.randn(m, d_in, width, generator=generator, dtype=torch.float64)
    return ModuleStack(tuple(f"layers.{j}.q_proj" for j in range(m)), out_stack, in_stack, ranks)


def dense_deltas(stack: ModuleStack, j: int = 0) -> list[np.ndarray]:
    ends = np.cumsum(stack.ranks)
    blocks = [slice(end - rank, end) for end, rank in zip(ends, stack.ranks, strict=True)]
    out, into = stack.out_stack[j].double().numpy(), stack.in_stack[j].double().numpy()
    return [out[:, block] @ into[:, block].T for block in blocks]


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """The largest `int(density * size)` entries, at least one, and those equal to the last of them."""
    count = max(1, int(density * delta.size))
    bound = np.sort(np.abs(delta).ravel())[delta.size - count]
    return np.where(np.abs(delta) >= bound, delta, 0)


def band(delta: np.ndarray, density: float, gamma: float) -> np.ndarray:
    """Drop the `int(gamma * size)` largest, then the smallest until `int(density * size)` are left."""
    count = max(1, int(density * delta.size)) if density < 1 else delta.size
    top = min(int(gamma * delta.size), delta.size - count)
    order = np.argsort(np.abs(delta).ravel(), kind="stable")
    kept = np.zeros(delta.size, dtype=bool)
    kept[order[delta.size - top - count : delta.size - top]] = True
    return np.where(kept.reshape(delta.shape), delta, 0)


def uniform(shape: tuple[int, int], seed: int, module: str, adapter: int) -> np.ndarray:
    words = np.frombuffer(hashlib.sha256(module.encode()).digest(), dtype="<u4")[:4]
    return np.random.default_rng([seed, adapter, *words.tolist()]).random(shape)


def dare(delta: np.ndarray, density: float, rescale: str, key: tuple[int, str, int]) -> np.ndarray:
    return _drop(delta, np.full(delta.shape, density), rescale, key)


def della(delta: np.ndarray, density: float, epsilon: float, rescale: str, key: tuple[int, str, int]) -> np.ndarray:
    ranks = np.argsort(np.argsort(np.abs(delta), axis=1, kind="stable"), axis=1, kind="stable")
    return _drop(delta, density - epsilon + 2 * epsilon * ranks / (delta.shape[1] - 1), rescale, key)


def _drop(delta: np.ndarray, chance: np.ndarray, rescale: str, key: tuple[int, str, int]) -> np.ndarray:
    kept = np.where(uniform(delta.shape, *key) < chance, delta, 0)
    if rescale == "inverse":
        return kept / chance
    if rescale == "l1":
        return kept * (np.abs(delta).sum() / np.abs(kept).sum())
    return kept


def elect(parts: list[np.ndarray], weights: list[float], *, how="sum", convention="mergekit", normalize=True):
    """Entry by entry, in plain loops over the adapters at each place."""
    stack, w = np.stack(parts), np.array(weights)
    ballots = stack * w[:, None, None] if convention == "mergekit" else stack
    tally = (ballots if how == "sum" else np.sign(ballots)).sum(axis=0)
    even = 1.0
    if convention == "authors" and np.sign(tally).sum() < 0:
        even = -1.0
    merged = np.zeros(tally.shape)
    for place in np.ndindex(*tally.shape):
        sign = np.sign(tally[place]) or even
        agree = [i for i in range(len(w)) if np.sign(ballots[i][place]) == sign]
        total = sum(w[i] * stack[i][place] for i in agree)
        divisor = sum(abs(w[i]) for i in agree) if convention == "mergekit" else len(agree)
        merged[place] = total / divisor if normalize and divisor else total
    return merged


def mix(parts: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return np.tensordot(np.array(weights), np.stack(parts), axes=1)


def far(found: torch.Tensor, wanted: np.ndarray) -> float:
    """Largest difference of an entry, relative to the largest entry wanted."""
    assert tuple(found.shape) == wanted.shape
    return float(np.abs(found.double().numpy() - wanted).max() / np.abs(wanted).max())
