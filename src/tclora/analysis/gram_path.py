"""Inner products of singular vectors straight from a stack: one Gram matrix per side and module, and no joint basis.

In: a `ModuleStack`. Out: `SingularGrams`, as from a compressed stack. The measures need no joint basis, so adapters may
be as alike as they like; only the columns of each adapter by itself must be well conditioned. A module where they are
not is compressed instead, which is slower and takes anything.

Precision: the Gram matrix of a large float32 side is taken in float32 where the columns of all adapters together are
well conditioned, and in float64 elsewhere. In float32 its entries are good to about 1e-6, as cosines of columns, and so
are the figures, by factors of a few; in float64 they are good to 1e-10.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra import ModuleStack, at_least_single, column_gram, compress_stack
from tclora.analysis.grams import NEGLIGIBLE, SingularGrams, grams_of, rank_groups
from tclora.shapes import Bool, Float

__all__ = ["singular_grams"]

# A float32 side with at least this many numbers: each entry of its Gram matrix is a sum of thousands of products, whose
# roundings average out.
_MANY = 2**18
# The least pivot of the Cholesky factor of a Gram matrix of unit columns: what is lost is a rounding over its square.
# In float32 it is asked of all columns together, so that small values of the joint spectra are not made of rounding.
_LEAST_SINGLE_PIVOT, _LEAST_PIVOT = 0.4, 1e-3
# Columns smaller than this lose digits when squared.
_TINY = 1e-15
# Rows that decide the sign of a singular vector, and the least that they must see of a unit column.
_N_ROWS, _SEEN = 256, 1e-5


@dataclass(frozen=True)
class _UnitGrams:
    """Of one side of some modules: inner products of its unit columns, and the norms of the columns."""

    gram: Float[Tensor, "m P P"]
    norms: Float[Tensor, "m P"]


def singular_grams(stack: ModuleStack) -> SingularGrams:
    """Inner products of the adapters' singular vectors on both sides, and the spectra of their union.

    The common sign of a pair of singular vectors is fixed by a direction of the full space.

    Raises:
        NumericalError: a factor holds NaN or infinity, or a product overflows; names module and adapter.
    """
    out = [_unit_gram(columns) for columns in stack.out_stack]
    into = [_unit_gram(columns) for columns in stack.in_stack]
    taken = [j for j in range(stack.m) if out[j] is not None and into[j] is not None]
    parts: list[tuple[list[int], SingularGrams]] = []
    if taken:
        sides = [_side([side[j] for j in taken]) for side in (out, into)]
        along = torch.stack([_along(stack.out_stack[j], sides[0].norms[k]) for k, j in enumerate(taken)])
        found, sound = _from_unit_grams(sides[0], sides[1], along, stack.ranks)
        taken = [j for j, good in zip(taken, sound.tolist(), strict=True) if good]
        parts.append((taken, _take(found, sound)))
    left = sorted(set(range(stack.m)) - set(taken))
    if left:
        parts.append((left, grams_of(compress_stack(_modules(stack, left)))))
    return _in_order(parts)


_Side = tuple[Tensor, Tensor]


def _side(modules: Sequence[_Side | None]) -> _UnitGrams:
    gram, norms = (torch.stack(part) for part in zip(*(m for m in modules if m is not None), strict=True))
    return _UnitGrams(gram, norms)


def _unit_gram(columns: Float[Tensor, "d P"]) -> _Side | None:
    """What `_UnitGrams` holds of one module, zero for zero columns; None where squares lose digits."""
    columns = at_least_single(columns)
    if columns.dtype == torch.float32 and columns.numel() >= _MANY:
        gram, norms = _divided(column_gram(columns))
        if bool((norms > _TINY).all() and torch.isfinite(norms).all()):
            lower, info = torch.linalg.cholesky_ex(gram)
            if not int(info) and float(lower.diagonal().min()) >= _LEAST_SINGLE_PIVOT:
                return gram, norms
    columns = columns.double()
    gram, norms = _divided(column_gram(columns))
    small = norms <= _TINY
    if not bool(torch.isfinite(norms).all()) or bool(small.any() and columns[:, small].any()):
        return None
    return gram, norms


def _divided(gram: Tensor) -> tuple[Tensor, Tensor]:
    gram = gram.double()
    norms = gram.diagonal().clamp(min=0).sqrt()
    size = torch.where(norms > 0, norms, 1)
    return gram / (size[:, None] * size), norms


def _along(columns: Tensor, norms: Tensor) -> Tensor:
    """Unit columns along a fixed direction of some of the rows, or of all where one is hardly seen in those."""
    size = torch.where(norms > 0, norms, 1)
    along = norms
    for every in (max(1, len(columns) // _N_ROWS), 1):
        rows = at_least_single(columns[::every])
        places = torch.arange(1, len(rows) + 1, dtype=torch.float64, device=columns.device)
        fixed = places.mul(0.6180339887498949).frac() - 0.5
        along = (fixed.to(rows.dtype) @ rows).double() / size
        if bool((along.abs()[norms > 0] >= _SEEN).all()):
            break
    return along


def _from_unit_grams(
    out: _UnitGrams, into: _UnitGrams, along: Float[Tensor, "m P"], ranks: tuple[int, ...]
) -> tuple[SingularGrams, Bool[Tensor, " m"]]:
    """The inner products of singular vectors, and for which modules they may be trusted.

    `along`: the unit out columns along one fixed direction.
    """
    values = torch.zeros_like(out.norms)
    sound = torch.ones(len(values), dtype=torch.bool, device=values.device)
    out_turns, in_turns = [], []
    for _, columns in rank_groups(ranks):
        found = _triplets(_blocks(out, columns), _blocks(into, columns))
        signs = _signs(along[:, columns], found.out_turn)
        out_turns.append((columns, found.out_turn * signs))
        in_turns.append((columns, found.in_turn * signs))
        values[:, columns] = found.values
        sound &= found.sound
    out_gram, in_gram = _turned(out.gram, out_turns), _turned(into.gram, in_turns)
    spectra = [_spectrum(gram, values) for gram in (out_gram, in_gram)]
    return SingularGrams(out_gram, in_gram, values, spectra[0], spectra[1], ranks), sound


@dataclass(frozen=True)
class _Triplets:
    """Of `g` adapters of one rank: what turns their unit columns into singular vectors, and the singular values."""

    out_turn: Float[Tensor, "m g r r"]
    in_turn: Float[Tensor, "m g r r"]
    values: Float[Tensor, "m g r"]
    sound: Bool[Tensor, " m"]


def _blocks(side: _UnitGrams, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Each adapter's own Gram matrix, with 1 for a zero column so that it has a Cholesky factor, and its norms."""
    norms = side.norms[:, columns]
    block = side.gram[:, columns[:, :, None], columns[:, None]]
    return block + torch.diag_embed((norms == 0).to(block)), norms


def _triplets(out: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor]) -> _Triplets:
    """Singular triplets of `B A` from the Cholesky factors of the Gram matrices of `B` and of `A`."""
    out_lower, out_sound = _cholesky(out[0])
    in_lower, in_sound = _cholesky(into[0])
    # `B = Q R` with `R` the transposed factor times the norms, and `A` alike, so the product is `Q (R_B R_A') Q'`.
    small = (out_lower.mT * out[1][:, :, None]) @ (in_lower.mT * into[1][:, :, None]).mT
    finite = torch.isfinite(small).all(dim=(2, 3))
    u, s, vh = torch.linalg.svd(torch.where(finite[:, :, None, None], small, 0))
    kept = (s > NEGLIGIBLE * s[..., :1]) & (s > 0)
    out_turn = torch.linalg.solve_triangular(out_lower.mT, u * kept[..., None, :], upper=True)
    in_turn = torch.linalg.solve_triangular(in_lower.mT, vh.mT * kept[..., None, :], upper=True)
    return _Triplets(out_turn, in_turn, s * kept, (finite & out_sound & in_sound).all(dim=1))


def _signs(along: Float[Tensor, "m g r"], turn: Float[Tensor, "m g r r"]) -> Float[Tensor, "m g 1 r"]:
    """One sign per triplet, fixed by the place of its out vector along the fixed direction."""
    return torch.where(along[:, :, None] @ turn < 0, -1.0, 1.0).to(turn)


def _cholesky(block: Tensor) -> tuple[Tensor, Tensor]:
    lower, info = torch.linalg.cholesky_ex(block)
    sound = (info == 0) & (lower.diagonal(dim1=2, dim2=3).amin(dim=2) >= _LEAST_PIVOT)
    return torch.where(sound[:, :, None, None], lower, torch.eye(block.shape[-1]).to(block)), sound


def _turned(gram: Tensor, turns: list[tuple[Tensor, Tensor]]) -> Tensor:
    """`T^T gram T`, with `T` block diagonal: its transpose from the left, twice."""
    for _ in range(2):
        rows = torch.zeros_like(gram)
        for columns, turn in turns:
            rows[:, columns.flatten()] = (turn.mT @ gram[:, columns]).flatten(1, 2)
        gram = rows.mT
    return gram


def _spectrum(gram: Tensor, values: Tensor) -> Tensor:
    energies = torch.linalg.eigvalsh(gram * (values[:, :, None] * values[:, None])).flip(1)
    rounding = energies.shape[1] * torch.finfo(energies.dtype).eps * energies[:, :1]
    return torch.where(energies > rounding, energies, 0).sqrt()


def _modules(stack: ModuleStack, members: list[int]) -> ModuleStack:
    names = tuple(stack.names[j] for j in members)
    return replace(stack, names=names, out_stack=stack.out_stack[members], in_stack=stack.in_stack[members])


def _take(grams: SingularGrams, chosen: Tensor) -> SingularGrams:
    return SingularGrams(**{key: value[chosen] for key, value in _tensors(grams).items()}, ranks=grams.ranks)


def _in_order(parts: list[tuple[list[int], SingularGrams]]) -> SingularGrams:
    """The modules of all parts in their order in the stack; spectra filled up with zeros to one length."""
    order = torch.tensor([j for members, _ in parts for j in members]).argsort()
    joined = {}
    for key in _tensors(parts[0][1]):
        values = [_tensors(grams)[key] for _, grams in parts]
        if key.endswith("spectrum"):
            width = max(value.shape[1] for value in values)
            values = [pad(value, (0, width - value.shape[1])) for value in values]
        joined[key] = torch.cat(values)[order]
    return SingularGrams(**joined, ranks=parts[0][1].ranks)


def _tensors(grams: SingularGrams) -> dict[str, Tensor]:
    return {field.name: getattr(grams, field.name) for field in fields(grams) if field.name != "ranks"}
