"""Ranks chosen by energy are the fewest that reach it; a budget is spent in full, where it explains most."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from algebra_stacks import make_stack, planted_core
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.algebra import ModuleStack, compress_stack, cp_als
from tclora.algebra.cp_budget import RankCurve, share_budget
from tclora.algebra.cp_rank import RankRule, fit_at_ranks, fit_to_energy, parse_rank_rule, rank_curves
from tclora.errors import ConfigError


def quick(compressed, cp_rank):
    """Few sweeps and starts: what is tested is the search, not the solver."""
    return cp_als(compressed, cp_rank, n_starts=0, max_iter=20)


def planted_stack(cp_rank, *, noise=0.0, n=5, m=1, seed=0):
    """Adapters `sum_r a_ir b_r c_r^T` with common b and c: a CP model of `cp_rank` terms; noise adds a private term."""
    _, (out, into, adapter) = planted_core(m=m, p=30, q=34, n=n, cp_rank=cp_rank, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    blocks_out = [
        torch.cat([out * adapter[:, i : i + 1], noise * torch.randn(m, 30, 1, generator=generator)], 2)
        for i in range(n)
    ]
    blocks_in = [torch.cat([into, torch.randn(m, 34, 1, generator=generator).double()], 2) for _ in range(n)]
    names = tuple(f"layer.{j}" for j in range(m))
    return ModuleStack(names, torch.cat(blocks_out, 2), torch.cat(blocks_in, 2), (cp_rank + 1,) * n)


@pytest.mark.parametrize("cp_rank", [1, 5])
def test_the_planted_rank_is_found(cp_rank):
    fit = fit_to_energy(compress_stack(planted_stack(cp_rank)), 1 - 1e-6, solve=quick)
    assert fit.factors.weights.shape[1] == cp_rank
    assert fit.n_terms.tolist() == [cp_rank]


def test_the_planted_rank_is_found_under_noise():
    """Private terms of 1 % of the norm hold 1e-4 of the energy; what the shared terms hold is asked for."""
    fit = fit_to_energy(compress_stack(planted_stack(4, noise=0.02)), 0.999, solve=quick)
    assert fit.n_terms.tolist() == [4]


@pytest.mark.parametrize("energy", [0.3, 0.8])
@pytest.mark.parametrize("kind", ["private", "mixed", "aligned"])
def test_no_fewer_terms_would_do(kind, energy):
    compressed = compress_stack(make_stack(kind, m=2, ranks=(3,) * 4))
    fit = fit_to_energy(compressed, energy, solve=quick)
    for j, terms in enumerate(fit.n_terms.tolist()):
        assert float(fit.relative_error[j]) ** 2 <= 1 - energy + 1e-12
        if terms > 1:
            assert float(quick(compressed, terms - 1).relative_error[j]) ** 2 > 1 - energy


def test_more_energy_takes_more_terms():
    compressed = compress_stack(make_stack(ranks=(3,) * 4))
    terms = [int(fit_to_energy(compressed, e, solve=quick).n_terms) for e in (0.2, 0.8, 1.0)]
    assert terms == sorted(terms)
    assert terms[-1] == 12


def test_modules_of_one_batch_get_their_own_ranks_and_the_models_they_would_get_alone():
    slow, fast = make_stack("private", ranks=(3,) * 4), planted_stack(2, n=4)
    stack = ModuleStack(
        ("slow", "fast"),
        torch.cat([slow.out_stack[:, :30], fast.out_stack]),
        torch.cat([slow.in_stack[:, :34], fast.in_stack]),
        (3,) * 4,
    )
    both = fit_to_energy(compress_stack(stack), 0.9, solve=quick)
    assert int(both.n_terms[0]) > int(both.n_terms[1]) <= 2
    for j, name in enumerate(stack.names):
        alone = ModuleStack((name,), stack.out_stack[j : j + 1], stack.in_stack[j : j + 1], stack.ranks)
        assert torch.equal(fit_to_energy(compress_stack(alone), 0.9, solve=quick).n_terms, both.n_terms[j : j + 1])


def test_padding_changes_no_model():
    """The padded factors leave the residual that is reported, taken from the dense core."""
    compressed = compress_stack(make_stack("mixed", m=3, ranks=(3,) * 4))
    fit = fit_at_ranks(compressed, [2, 9, 5], solve=quick)
    assert fit.factors.weights.shape == (3, 9)
    assert fit.n_terms.tolist() == [2, 9, 5]
    assert float(fit.factors.weights[0, 2:].abs().max()) == 0
    residual = (compressed.core - fit.factors.reconstruct()).flatten(1).norm(dim=1) / compressed.size()
    # Both are residuals in float64, of different grouping.
    assert torch.allclose(residual, fit.relative_error, atol=1e-12)


def test_fits_at_given_ranks_are_those_of_the_solver():
    compressed = compress_stack(make_stack("mixed", m=3, ranks=(3,) * 4))
    fit = fit_at_ranks(compressed, [4, 2, 4], solve=quick)
    for rank, members in ((4, [0, 2]), (2, [1])):
        wanted = quick(compressed, rank)
        for j in members:
            # A problem's fit does not depend on its neighbors; batched products may round differently.
            assert float(fit.relative_error[j]) == pytest.approx(float(wanted.relative_error[j]), abs=1e-9)


def test_a_solver_that_falls_short_is_followed_up_to_the_exact_rank():
    """Singular values promise a model; where the solver does not find it, the search goes on and ends."""
    compressed = compress_stack(make_stack("private", ranks=(2,) * 3))

    def poor(part, cp_rank):
        fit = cp_als(part, cp_rank, n_starts=0, max_iter=10)
        return replace(fit, relative_error=torch.ones_like(fit.relative_error)) if cp_rank < 6 else fit

    assert fit_to_energy(compressed, 0.5, solve=poor).n_terms.tolist() == [6]


def test_a_zero_module_takes_one_empty_term():
    stack = make_stack(ranks=(2, 2))
    nothing = replace(stack, out_stack=torch.zeros_like(stack.out_stack))
    fit = fit_to_energy(compress_stack(nothing), 0.9, solve=quick)
    assert (fit.factors.weights.shape[1], int(fit.n_terms)) == (1, 0)


def test_curves_state_the_energy_that_fits_explain():
    compressed = compress_stack(make_stack("mixed", m=2, ranks=(2,) * 4))
    curves = rank_curves(compressed, (4, 1, 2, 40), solve=quick)
    core, models = compressed.core, {rank: quick(compressed, rank).factors.reconstruct() for rank in (1, 2, 4, 8)}
    for j, curve in enumerate(curves):
        assert curve.cp_ranks == (1, 2, 4, 8)
        for rank, explained in zip(curve.cp_ranks, curve.explained, strict=True):
            rest = core[j] - models[rank][j]
            wanted = float(core[j].square().sum() - rest.square().sum())
            assert explained == pytest.approx(wanted, rel=1e-9)


def concave_curve(gains: list[float]) -> RankCurve:
    total, explained = 0.0, []
    for gain in sorted(gains, reverse=True):
        total += gain
        explained.append(total)
    return RankCurve(tuple(range(1, len(gains) + 1)), tuple(explained))


@settings(max_examples=60, deadline=None)
@given(
    gains=st.lists(st.lists(st.integers(0, 20).map(float), min_size=1, max_size=4), min_size=1, max_size=3),
    spare=st.integers(0, 12),
)
def test_no_other_way_to_spend_the_budget_explains_more(gains, spare):
    curves = [concave_curve(g) for g in gains]
    total = len(curves) + spare
    ranks = share_budget(curves, total)
    exact = [len(g) for g in gains]
    assert sum(ranks) == min(total, sum(exact))
    assert all(1 <= rank <= most for rank, most in zip(ranks, exact, strict=True))

    def explained(choice):
        return sum(curve.explained[rank - 1] for curve, rank in zip(curves, choice, strict=True))

    every = product(*(range(1, most + 1) for most in exact))
    assert explained(ranks) == pytest.approx(max(explained(c) for c in every if sum(c) <= total))


def test_a_slowly_decaying_spectrum_gets_more_of_the_budget():
    slow = concave_curve([1.0 / (1 + 0.1 * k) for k in range(30)])
    fast = concave_curve([0.5**k for k in range(30)])
    ranks = share_budget([slow, fast], 20)
    assert sum(ranks) == 20
    assert ranks[0] > ranks[1]


def test_the_budget_follows_planted_decay():
    """Two modules of equal energy, one with decaying and one with flat spectra: curves from fits, budget 5 each."""
    stack = make_stack("private", m=2, ranks=(4,) * 3)
    steep = torch.tensor([1.0, 0.2, 0.04, 0.008], dtype=torch.float64).repeat(3)
    out = torch.linalg.qr(stack.out_stack)[0]
    stack = replace(stack, out_stack=torch.stack([out[0] * steep / steep.norm(), out[1] / 12**0.5]))
    stack = replace(stack, in_stack=torch.linalg.qr(stack.in_stack)[0])
    ranks = share_budget(rank_curves(compress_stack(stack), (1, 2, 4, 6, 8), solve=quick), 10)
    assert sum(ranks) == 10
    assert ranks[1] > ranks[0] >= 3


def test_terms_go_where_the_energy_is():
    small, large = concave_curve([1.0, 0.9, 0.8]), concave_curve([10.0, 9.0, 8.0])
    assert share_budget([small, large], 4) == (1, 3)


def test_equal_modules_share_evenly():
    curve = RankCurve((4, 12), (8.0, 10.0))
    assert share_budget([curve] * 3, 9) == (3, 3, 3)


def test_dents_in_a_curve_are_bridged():
    """A fit that did badly at one rank must not stop the budget before the rank where it does well."""
    dented, poor = RankCurve((1, 2, 3), (1.0, 1.1, 9.0)), RankCurve((1, 2, 3), (3.0, 5.0, 6.0))
    assert share_budget([dented, poor], 4) == (3, 1)


def test_a_budget_below_one_term_a_module_is_refused():
    with pytest.raises(ConfigError, match="2 terms for 3 modules"):
        share_budget([concave_curve([1.0])] * 3, 2)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("auto", RankRule(energy=0.9)),
        ("auto:energy=0.5", RankRule(energy=0.5)),
        (" auto:budget=20 ", RankRule(budget=20.0)),
    ],
)
def test_rules_are_read(text, rule):
    assert parse_rank_rule(text) == rule


@pytest.mark.parametrize("text", ["", "20", "auto:", "auto:rank=3", "auto:energy", "auto:energy=x", "automatic"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ConfigError, match="no rule for CP ranks"):
        parse_rank_rule(text)


@pytest.mark.parametrize(
    "text", ["auto:energy=0", "auto:energy=1.5", "auto:energy=nan", "auto:budget=0.5", "auto:budget=inf"]
)
def test_rules_out_of_range_are_refused(text):
    with pytest.raises(ConfigError, match=r"no share|too small"):
        parse_rank_rule(text)
