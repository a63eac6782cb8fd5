"""Regression mean: the delta that comes closest to every adapter on that adapter's own inputs.

In: a stack, and for each adapter the statistics of its modules' inputs (`tclora.merging.learning`). Out: per module

    Delta = (sum_i w_i Delta_i H_i) (sum_i w_i H_i)^-1,    H_i = a G_i + (1 - a) diag(G_i) + c I,

`G_i` the mean of `x x.T` over the tokens that adapter `i` read, `a` the shrinkage, `c` the ridge times the mean
diagonal of `sum_i w_i G_i`, `w` the weights divided by their sum. An adapter that lacks a module counts as a zero delta
with inputs of its own. Where nothing was read the ridge decides, and the result is the weighted mean. Rows change and
columns do not, so the result has rank P: `lora_b` stays and `lora_a` is solved for. The only d_in by d_in matrix is the
one to be inverted.

What Delta minimizes is, up to a constant, `tr((X - Delta) H (X - Delta).T)` with `H = sum_i w_i H_i`, although every
adapter has a metric of its own: they differ in the linear term alone. So the best X of rank R is known too, `Delta L`
cut to R singular triplets, times the inverse of L, with `L L.T = H` (reduced-rank regression); `rank` asks for it.
Refused: no statistics, negative weights.

Source of the cut: Izenman 1975, Reduced-rank regression for the multivariate linear model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra import LowRankDelta, ModuleStack, balance, svd_of_product
from tclora.errors import ConfigError
from tclora.merging.learning.regmean import RegmeanParams, learn_regmean
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.linear import exact
from tclora.shapes import Float

__all__ = ["regmean"]


@MERGE_METHODS.register(
    "regmean",
    source="Jin et al. 2022, arXiv 2212.09849",
    params=RegmeanParams,
    needs="base, unlabelled inputs, best per adapter",
    leaves="rank P, exact; rank R with rank=R",
    cost="O(d_in^3 + d_in^2 tokens) per module, after one pass over the inputs per adapter",
    learns=learn_regmean,
    labelled=False,
    statistics=True,
    takes_weights=True,
)
def regmean(stack: ModuleStack, params: RegmeanParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Closest delta to all adapters on their own inputs, in closed form from the inputs' Gram matrices.

    Only the ratios of the weights count: as published, they multiply the Gram matrices. The diagnostic `output_error`
    is what the method minimizes, relative: how far the merged outputs are from each adapter's on its own inputs.

    Raises:
        ConfigError: there are no statistics, or not one per adapter, or not of these modules; a weight is negative, or
            all are zero.
    """
    shares = _shares(adapter_weights.to(stack.in_stack.device, torch.float64))
    rows, errors, ups, downs = [], [], [], []
    for j, name in enumerate(stack.names):
        inputs = _Inputs(_factors(stack, params, name), shares[j], params.shrink, params.ridge)
        deltas = [stack.in_stack[j, :, block].double().mT for block in stack.blocks()]
        rows.append(_solved(deltas, inputs))
        up = stack.out_stack[j].double()
        if params.rank is not None and params.rank < min(len(up), *rows[-1].shape):
            turn, down = _cut(up, rows[-1], inputs, params.rank)
            ups.append(up @ turn)
            downs.append(down)
            rows[-1] = turn @ down
        errors.append(_output_error(up, deltas, rows[-1], inputs))
    diagnostics = tuple({"output_error": error} for error in errors)
    if downs:
        return exact(LowRankDelta(stack.names, *balance(torch.stack(ups), torch.stack(downs))), diagnostics)
    return exact(_within_size(LowRankDelta(stack.names, stack.out_stack.double(), torch.stack(rows))), diagnostics)


@dataclass(frozen=True)
class _Inputs:
    """What one module read under each adapter: factors (rows, d_in), or for an embedding shares of tokens (d_in,)."""

    factors: Sequence[Float[Tensor, "..."]]
    shares: Float[Tensor, " n"]
    shrink: float
    ridge: float

    def diagonal(self, i: int) -> Float[Tensor, " d_in"]:
        """Of `G_i`."""
        return self.factors[i] if self.factors[i].ndim == 1 else self.factors[i].square().sum(dim=0)

    def floor(self) -> Float[Tensor, ""]:
        """`c`: the ridge in the units of the inputs; 1 where nothing but zeros was read."""
        mean = (self.shares * torch.stack([self.diagonal(i).mean() for i in range(len(self.factors))])).sum()
        return torch.where(mean > 0, self.ridge * mean, torch.ones_like(mean))

    def read(self, left: Float[Tensor, "r d_in"], i: int) -> Float[Tensor, "r k"]:
        """`left @ R.T` with `R.T @ R = G_i`."""
        rows = self.factors[i]
        return left * rows.sqrt() if rows.ndim == 1 else left @ rows.mT

    def times(self, left: Float[Tensor, "r d_in"], i: int) -> Float[Tensor, "r d_in"]:
        """`left @ H_i`."""
        rows, rest = self.factors[i], (1 - self.shrink) * self.diagonal(i) + self.floor()
        whole = left * rows if rows.ndim == 1 else (left @ rows.mT) @ rows
        return self.shrink * whole + left * rest

    def all_diagonal(self) -> bool:
        """Whether every `H_i` is diagonal, as for an embedding."""
        return all(rows.ndim == 1 for rows in self.factors)

    def total_diagonal(self) -> Float[Tensor, " d_in"]:
        """The diagonal of `sum_i w_i H_i`, which shrinkage leaves alone."""
        weighted = [share * self.diagonal(i) for i, share in enumerate(self.shares)]
        return torch.stack(weighted).sum(dim=0) + self.floor()

    def total(self) -> Float[Tensor, "d_in d_in"]:
        """`sum_i w_i H_i`, dense."""
        diagonal = self.total_diagonal()
        total = torch.zeros(len(diagonal), len(diagonal), dtype=diagonal.dtype, device=diagonal.device)
        for share, rows in zip(self.shares, self.factors, strict=True):
            total += share * self.shrink * (rows.mT @ rows)
        total.diagonal().copy_(diagonal)
        return total


def _shares(weights: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    total = weights.sum(dim=1, keepdim=True)
    if bool((weights < 0).any()) or not bool((total > 0).all()):
        raise ConfigError(
            "regmean takes no negative adapter weights, and not all of them zero",
            found=", ".join(f"{weight:g}" for weight in weights[0].tolist()),
            expected=">= 0, one of them above 0",
        )
    return weights / total


def _factors(stack: ModuleStack, params: RegmeanParams, name: str) -> list[Tensor]:
    statistics = params.statistics
    if statistics is None or len(statistics) != stack.n:
        raise ConfigError(
            "regmean needs statistics of the inputs of every adapter",
            found="none" if statistics is None else f"statistics of {len(statistics)} adapters for {stack.n}",
            expected="inputs of the modules, taken while the base model reads examples",
            do="give --base and --examples, or --learned FILE",
        )
    factors = [one.of(name).to(stack.in_stack.device, torch.float64) for one in statistics]
    for rows in factors:
        if rows.shape[-1] != stack.in_stack.shape[1]:
            raise ConfigError(
                "the statistics of a module are of another size",
                where=name,
                found=f"inputs of {rows.shape[-1]} numbers",
                expected=f"{stack.in_stack.shape[1]}, as the adapters have it",
                do="learn again, with --base and --examples",
            )
    return factors


def _solved(deltas: Sequence[Tensor], inputs: _Inputs) -> Float[Tensor, "P d_in"]:
    """The rows of the result: `w_i A_i H_i (sum_j w_j H_j)^-1` for each adapter.

    Solved as `w_i (A_i + A_i (H_i - sum_j w_j H_j) (sum_j w_j H_j)^-1)`: what does not change is never multiplied.
    """
    if inputs.all_diagonal():
        total = inputs.total_diagonal()
        moved = [inputs.times(rows, i) / total for i, rows in enumerate(deltas)]
        return torch.cat([share * rows for share, rows in zip(inputs.shares, moved, strict=True)])
    total = inputs.total()
    gaps = torch.cat([inputs.times(rows, i) - rows @ total for i, rows in enumerate(deltas)])
    moved = torch.cat(list(deltas)) + torch.cholesky_solve(gaps.mT, torch.linalg.cholesky(total)).mT
    columns = torch.tensor([len(rows) for rows in deltas], device=total.device)
    return torch.repeat_interleave(inputs.shares, columns)[:, None] * moved


def _cut(
    lora_b: Float[Tensor, "d_out P"], rows: Float[Tensor, "P d_in"], inputs: _Inputs, rank: int
) -> tuple[Float[Tensor, "P R"], Float[Tensor, "R d_in"]]:
    """`turn`, `down`: `lora_b @ turn @ down` is the closest to `lora_b @ rows` on the pooled inputs at this rank."""
    small = torch.linalg.qr(lora_b, mode="r")[1]
    if inputs.all_diagonal():
        root = inputs.total_diagonal().sqrt()
        seen = rows * root
        v = torch.linalg.svd(small @ seen, full_matrices=False)[2][:rank]
        return seen @ v.mT, v / root
    lower = torch.linalg.cholesky(inputs.total())
    seen = rows @ lower
    v = torch.linalg.svd(small @ seen, full_matrices=False)[2][:rank]
    return seen @ v.mT, torch.linalg.solve_triangular(lower.mT, v.mT, upper=True).mT


def _output_error(lora_b: Tensor, deltas: Sequence[Tensor], merged: Tensor, inputs: _Inputs) -> float:
    """Over all adapters: the norm of `(Delta - Delta_i) x` over that of `Delta_i x`, on the inputs that were read."""
    gram, lost, whole, start = lora_b.mT @ lora_b, 0.0, 0.0, 0
    for i, rows in enumerate(deltas):
        own = torch.zeros_like(merged)
        own[start : start + len(rows)] = rows
        start += len(rows)
        outputs = [inputs.read(merged - own, i), inputs.read(own, i)]
        energies = [float(inputs.shares[i] * (output * (gram @ output)).sum()) for output in outputs]
        lost, whole = lost + energies[0], whole + energies[1]
    return (max(lost, 0.0) / whole) ** 0.5 if whole > 0 else 0.0


def _within_size(delta: LowRankDelta) -> LowRankDelta:
    """The same, at the module's own size where the sum of the ranks exceeds it."""
    if delta.lora_a.shape[1] <= min(delta.lora_b.shape[1], delta.lora_a.shape[2]):
        return delta
    u, s, vh = svd_of_product(delta.lora_b, delta.lora_a)
    root = s.sqrt()
    return LowRankDelta(delta.names, u * root[:, None], root[:, :, None] * vh)
