"""Whether the file that was written holds the delta it should, on sampled rows and columns of every module.

In: the folder, read back raw, and for each module the terms whose sum its delta should be, in float64. Out: the
largest relative error and its bound. All columns of some rows and all rows of some columns are compared, so every
stored number takes part. Two bounds are kept. Entry by entry: rounding each factor to a dtype with unit roundoff u
moves `lora_b @ lora_a` by at most `2 u |lora_b| |lora_a|` (Higham 2002, section 3.5): this finds one wrong number.
All together: errors of many roundings add up as the root of their squares, with room for those that are alike,
`2 u sqrt(|delta|^2 + sum_t |b_t|^2 |a_t|^2)` in Frobenius norms: this finds a scale that is one percent off.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tclora.errors import NumericalError
from tclora.pipeline.checks.raw_lora import RawLora

__all__ = ["FileCheck", "Term", "check_file"]

N_SAMPLED = 16
# Steps in float32 before the last rounding: the scale folded on reading, weights, storage, balancing; with room.
_FLOAT32_STEPS = 8 * 2.0**-24
# What float64 arithmetic may add where a sum is rewritten through an SVD: far below float32, far above its rounding.
_FLOAT64_FLOOR = 1e-12

# `lora_b` (d_out, r) and `lora_a` (r, d_in), in float64. The rank differs between the terms of one sum.
Term = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FileCheck:
    """The largest relative error over modules, where it is, and the bound of that module."""

    n_modules: int
    relative_error: float
    module: str
    bound: float
    against: str
    """What the file was compared with, in words."""


def check_file(folder: Path, terms: Callable[[str], Sequence[Term]], modules: Sequence[str], against: str) -> FileCheck:
    """Compare every module of the folder with the sum of `lora_b @ lora_a` over its `terms`.

    Raises:
        NumericalError: a module is missing, or an entry is further off than rounding can explain.
    """
    written = RawLora(folder)
    if list(written.paths) != sorted(modules):
        odd = sorted(set(written.paths) ^ set(modules))
        raise NumericalError(
            "the written file does not hold the modules of the merge",
            where=odd[0],
            found=f"{len(written.paths)} modules",
            expected=f"{len(modules)} modules",
            do="do not use it; report this with the adapters",
        )
    checked = [(*_check_module(written, path, terms(path)), path) for path in written.paths]
    error, bound, module = max(checked, key=lambda row: row[0])
    return FileCheck(len(checked), error, module, bound, against)


def _check_module(written: RawLora, path: str, terms: Sequence[Term]) -> tuple[float, float]:
    """Relative error and its bound, over the sampled entries of one module."""
    lora_b, lora_a, scale = written.factors(path)
    stored = (lora_b * scale, lora_a)
    samples = _samples(path, lora_b.shape[0], lora_a.shape[1])
    wanted, found = (_sampled(parts, samples) for parts in (terms, [stored]))
    sizes = _sampled([(b.abs(), a.abs()) for b, a in terms], samples)
    before = _FLOAT32_STEPS * sizes + _FLOAT64_FLOOR * sizes.max()
    error = (found - wanted).abs()
    by_entry, together = _bounds(stored, abs(scale), written.dtype(path), wanted, samples)
    by_entry, together = by_entry + before, together + float(before.norm())
    # A sum that cancels to nothing is measured by its terms.
    size = float(wanted.norm()) or float(sizes.norm())
    if not (bool((error <= by_entry).all()) and float(error.norm()) <= together):
        raise _off(path, error, by_entry, together, size or 1.0)
    # Nothing but zeros, and nothing else was found: there is nothing to divide by.
    return (float(error.norm()) / size, together / size) if size else (0.0, 0.0)


def _bounds(
    stored: Term, scale: float, dtype: torch.dtype, wanted: Tensor, samples: tuple[Tensor, Tensor]
) -> tuple[Tensor, float]:
    """What rounding to `dtype` may do: to each sampled entry at the worst, and to all of them together."""
    limits = torch.finfo(dtype)
    unit = limits.eps / 2 * (1 + limits.eps) + _FLOAT32_STEPS
    # Below the smallest normal number the error no longer shrinks with the number.
    least = limits.smallest_normal * limits.eps / 2
    lora_b, lora_a = stored[0].abs(), stored[1].abs()
    flat_b, flat_a = torch.full_like(lora_b, least * scale), torch.full_like(lora_a, least)
    tiny = _sampled([(flat_b, lora_a + flat_a), (lora_b, flat_a)], samples)
    squares = _sampled([(lora_b.square(), lora_a.square())], samples).sum()
    together = 2 * unit * float((wanted.square().sum() + squares).sqrt()) + float(tiny.norm())
    return 2 * unit * (1 + unit) * _sampled([(lora_b, lora_a)], samples) + tiny, together


def _samples(path: str, d_out: int, d_in: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(path.encode()))
    rows = torch.randperm(d_out, generator=generator)[:N_SAMPLED]
    return rows, torch.randperm(d_in, generator=generator)[:N_SAMPLED]


def _sampled(terms: Sequence[Term], samples: tuple[Tensor, Tensor]) -> Tensor:
    """The sampled rows and columns of a sum of products, as one list of entries."""
    rows, columns = samples
    parts = [torch.cat([(b[rows] @ a).flatten(), (b @ a[:, columns]).flatten()]) for b, a in terms]
    return torch.stack(parts).sum(dim=0)


def _off(path: str, error: Tensor, by_entry: Tensor, together: float, size: float) -> NumericalError:
    beyond = int((~(error <= by_entry)).sum())
    return NumericalError(
        "the written file does not hold the merge",
        where=path,
        found=f"relative error {float(error.norm()) / size:.2e}; {beyond} sampled entries beyond rounding",
        expected=f"at most {together / size:.2e}, and no such entry, in the dtype it is stored in",
        do="do not use it; report this with the adapters",
    )
