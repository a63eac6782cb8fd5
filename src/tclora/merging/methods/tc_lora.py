"""TC-LoRA: one joint CP model of all adapters, merged by a rule on its components.

The stack `T[:, :, i] = delta_i` is written as `sum_r a[i, r] * out_r in_r^T`: directions that all adapters share, one
coordinate per adapter. The merged delta is `sum_r omega_r * out_r in_r^T`, again a LoRA of rank R, and a component rule
gives `omega` from the coordinates.

The published text adds "the reconstruction"; the first author's released code multiplies two factors and drops the
third, whose scale CP does not define. We keep the coordinates, and the default takes their mean (docs/adr/0005).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from tclora.algebra import (
    CompressedStack,
    CpFit,
    CpSolver,
    ModuleStack,
    RankCurve,
    compress_stack,
    cp_als,
    fit_to_energy,
    lift,
    parse_rank_rule,
    rank_curves,
    share_budget,
)
from tclora.algebra.orthogonal import polar_factor
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack, Params
from tclora.shapes import Float

__all__ = ["COMPONENT_RULES", "TcLoraParams", "component_weights", "share_ranks", "tc_lora"]

# Where the curve of energy against terms is measured, as shares of the budget per module.
_GRID = (0.05, 0.25, 0.5, 1.0, 2.0, 4.0)
# Directions that the terms hold together to less than this share of the strongest are noise, as in `tsv`.
_NOISE = 1e-6

RuleName = Literal["mean", "sum", "weighted", "rms", "consensus", "shared_only", "self_weighted"]


@dataclass(frozen=True)
class TcLoraParams:
    """`cp_rank`: terms of the CP model, the rank of the result; or `auto:energy=0.9` (as `auto`), the fewest terms in
    each module that explain this share of its energy, or `auto:budget=20`, so many per module on average, spent where
    they explain most; the written adapter then has the largest rank of any module. `rule`: how coordinates become one
    weight per term.

    `shared_share` is for the rule `shared_only`: the least participation ratio, as a share of the adapters, of a term
    that is kept. `effort` is how hard the solver looks (docs/adr/0009 has what it buys): `quick` sweeps two starts made
    of singular vectors and takes the better one to an error that changes by less than 1e-5 a sweep; `thorough` adds
    twenty random starts, takes the best three, and asks for 1e-7. `n_starts` sets the number of random ones.

    `orthogonal`: replace the directions of either side by the nearest orthonormal ones, as TSV-Merge does with singular
    vectors, so that terms which point alike do not add up; the singular values of the result are then the weights of
    the terms.
    """

    cp_rank: int | str = 20
    rule: RuleName = "mean"
    shared_share: float = 0.5
    orthogonal: bool = False
    effort: Literal["quick", "thorough"] = "quick"
    max_iter: int = 300
    n_starts: int | None = None
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.cp_rank, str):
            parse_rank_rule(self.cp_rank)
        for name, low in (("cp_rank", 1), ("max_iter", 1), ("n_starts", 0), ("seed", 0)):
            if isinstance(getattr(self, name), int) and getattr(self, name) < low:
                raise ConfigError(f"'{name}' of tc_lora is too small", found=getattr(self, name), expected=f">= {low}")
        if not 0 <= self.shared_share <= 1:
            raise ConfigError("'shared_share' of tc_lora is no share", found=self.shared_share, expected="0 to 1")

    def holding(self, rank: int) -> "TcLoraParams":
        """Room for one adapter of `rank`."""
        return replace(self, cp_rank=rank if isinstance(self.cp_rank, str) else max(self.cp_rank, rank))


def share_ranks(stacks: Callable[[], Iterator[ModuleStack]], params: TcLoraParams) -> TcLoraParams | dict[str, Params]:
    """Settle a budget of terms over all modules: each module's parameters with its own number of terms."""
    rule = parse_rank_rule(params.cp_rank) if isinstance(params.cp_rank, str) else None
    if rule is None or rule.budget is None:
        return params
    grid = sorted({max(1, round(rule.budget * share)) for share in _GRID})
    curves: dict[str, RankCurve] = {}
    for stack in stacks():
        found = rank_curves(compress_stack(stack), grid, solve=_solver(params))
        curves.update(zip(stack.names, found, strict=True))
    ranks = share_budget(list(curves.values()), round(rule.budget * len(curves)))
    settled = {rank: replace(params, cp_rank=rank) for rank in set(ranks)}
    return {name: settled[rank] for name, rank in zip(curves, ranks, strict=True)}


@MERGE_METHODS.register(
    "tc_lora",
    source="arXiv 2508.03999, section 3.3",
    params=TcLoraParams,
    needs="adapters",
    leaves="rank cp_rank",
    cost="O(d P^2) + sweeps R P^2",
    prepare=share_ranks,
)
def tc_lora(stack: ModuleStack, params: TcLoraParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Joint CP model of all adapters: shared directions, one coordinate per adapter, merged by a component rule.

    The result has rank `params.cp_rank`, or less where the stack holds less; with `cp_rank` at the sum of the ranks it
    is the weighted sum itself. `relative_error` is that of the CP model of the stack.

    Raises:
        ConfigError: a weight is negative under a rule that needs sizes.
    """
    compressed = compress_stack(stack)
    fit = _fit(compressed, params)
    n_terms = max(1, int(fit.n_terms.max()))
    omega = component_weights(fit.factors.coordinates(), params.rule, adapter_weights, params.shared_share)
    # The root of a term's weight goes to either side, so that the factors are of like size.
    root = omega.abs().sqrt()[:, None]
    out_factor, in_factor = _directions(fit, params.orthogonal)
    out_small = (out_factor * root * omega.sign()[:, None])[:, :, :n_terms]
    in_small = (in_factor * root)[:, :, :n_terms]
    size = compressed.size()
    return MergedStack(lift(compressed, out_small, in_small), fit.relative_error, size, _diagnostics(fit))


def _fit(compressed: CompressedStack, params: TcLoraParams) -> CpFit:
    solve = _solver(params)
    if isinstance(params.cp_rank, int):
        # The stack is the sum of as many terms as its ranks add up to; more would be zeros.
        return solve(compressed, min(params.cp_rank, max(1, sum(compressed.ranks))))
    rule = parse_rank_rule(params.cp_rank)
    if rule.energy is not None:
        return fit_to_energy(compressed, rule.energy, solve=solve)
    raise ConfigError("a budget of terms is shared by a whole merge, and this is one stack of modules", found=rule)


def _directions(fit: CpFit, orthogonal: bool) -> tuple[Tensor, Tensor]:
    sides = fit.factors.out_factor, fit.factors.in_factor
    return (polar_factor(sides[0], tol=_NOISE), polar_factor(sides[1], tol=_NOISE)) if orthogonal else sides


def _solver(params: TcLoraParams) -> CpSolver:
    return partial(cp_als, seed=params.seed, **_effort(params))


def _effort(params: TcLoraParams) -> dict[str, Any]:
    quick = params.effort == "quick"
    n_starts = params.n_starts if params.n_starts is not None else 0 if quick else 20
    settled = {"tol": 1e-5, "n_finalists": 1} if quick else {"tol": 1e-7, "n_finalists": 3}
    return {"max_iter": params.max_iter, "n_starts": n_starts, **settled}


def component_weights(
    coordinates: Float[Tensor, "m n R"],
    rule: RuleName,
    adapter_weights: Float[Tensor, "m n"],
    shared_share: float = 0.5,
) -> Float[Tensor, "m R"]:
    """One weight per CP term from the adapters' coordinates `a` and weights `w` (1/n each: the plain rules).

    Raises:
        ConfigError: a weight is negative under a rule that needs sizes.

    Source: the table of rules in the documentation of the method; `mean` is the mean of the reconstruction.
    """
    weights = adapter_weights.to(coordinates)[:, :, None]
    if rule in _NEEDS_SIZES and bool((weights < 0).any()):
        raise ConfigError(
            f"the rule '{rule}' takes no negative adapter weights", found=float(weights.min()), expected=">= 0"
        )
    return COMPONENT_RULES[rule](coordinates, weights, shared_share)


def _mean(a: Tensor, w: Tensor, share: float) -> Tensor:
    """`sum_i w_i a_i`: the weighted sum of the reconstructed adapters."""
    return (w * a).sum(dim=1)


def _sum(a: Tensor, w: Tensor, share: float) -> Tensor:
    """`n` times the mean: task arithmetic with coefficient 1."""
    return a.shape[1] * _mean(a, w, share)


def _rms(a: Tensor, w: Tensor, share: float) -> Tensor:
    """Root mean square size with the sign of the mean: a term's energy, whoever holds it."""
    return (w * a * a).sum(dim=1).sqrt() * _sign(_mean(a, w, share))


def _consensus(a: Tensor, w: Tensor, share: float) -> Tensor:
    """The mean, shrunk where adapters disagree in sign."""
    total, size = _mean(a, w, share), (w * a.abs()).sum(dim=1)
    return total * _ratio(total.abs(), size)


def _shared_only(a: Tensor, w: Tensor, share: float) -> Tensor:
    """The mean of the terms that at least a share of the adapters take part in; other terms are dropped."""
    participation = _ratio((a * a).sum(dim=1) ** 2, (a**4).sum(dim=1))
    # A hair below the bound counts: participation of equal coordinates is n only up to rounding.
    return _mean(a, w, share) * (participation >= share * a.shape[1] * (1 - 1e-9))


def _self_weighted(a: Tensor, w: Tensor, share: float) -> Tensor:
    """`sum |a| a / sum |a|`: a term that all share keeps its mean, a private one its full size."""
    return _ratio((w * a.abs() * a).sum(dim=1), (w * a.abs()).sum(dim=1))


COMPONENT_RULES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "mean": _mean,
    "sum": _sum,
    # `mean` under the user's own weights; named so that a command says what it does.
    "weighted": _mean,
    "rms": _rms,
    "consensus": _consensus,
    "shared_only": _shared_only,
    "self_weighted": _self_weighted,
}

_NEEDS_SIZES = frozenset({"rms", "consensus", "self_weighted"})


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole != 0, part / torch.where(whole != 0, whole, 1), 0)


def _sign(value: Tensor) -> Tensor:
    return torch.where(value < 0, -torch.ones_like(value), torch.ones_like(value))


def _diagnostics(fit: CpFit) -> tuple[dict[str, object], ...]:
    columns = {
        "n_terms": fit.n_terms,
        "n_iter": fit.n_iter,
        "converged": fit.converged,
        "exact": fit.exact,
        "start_spread": fit.start_spread,
        "triple_cosine": fit.triple_cosine,
        "weight_energy": fit.weight_energy,
        "degenerate": fit.degenerate,
    }
    values: dict[str, list[object]] = {name: column.tolist() for name, column in columns.items()}
    values["start"] = list(fit.start)
    return tuple({name: column[j] for name, column in values.items()} for j in range(len(fit.start)))
