"""The whole analysis: what must not change it, what is not defined, summaries, places, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
from planted_overlap import EXACT, adapter_names, dense_deltas, figures_of, rough_stack

from tclora.algebra import ModuleStack
from tclora.analysis import AnalysisSettings, analyse_stacks, overlap
from tclora.analysis.paths import Place, places_of
from tclora.errors import ConfigError, ShapeError


def numbers_of(value, path: str = "") -> dict[str, float]:
    """Every number of a record by its place."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: v for name, item in fields.items() for k, v in numbers_of(item, f"{path}.{name}").items()}
    if isinstance(value, tuple):
        return {k: v for index, item in enumerate(value) for k, v in numbers_of(item, f"{path}[{index}]").items()}
    return {path: float(value)} if isinstance(value, int | float) else {}


def differences(first, second, *, but: tuple[str, ...] = ()) -> list[str]:
    """Places of numbers that differ by more than rounding over gaps of singular values."""
    one, two = numbers_of(first), numbers_of(second)
    assert one.keys() == two.keys()
    far = [p for p in one if not np.isclose(one[p], two[p], rtol=1e-6, atol=1e-8)]
    return [p for p in far if not p.endswith(but)]


def analysis_of(stack: ModuleStack, cp_rank: int = 4):
    return analyse_stacks([stack], adapter_names(stack.n), AnalysisSettings(cp_rank=cp_rank, max_iter=200))


def test_the_comparison_of_records_can_fail():
    assert differences(analysis_of(rough_stack()), analysis_of(rough_stack(seed=1)))


def test_how_an_adapter_is_factored_changes_nothing():
    stack, generator = rough_stack(), torch.Generator().manual_seed(1)
    turn = torch.block_diag(*(torch.randn(r, r, generator=generator, dtype=torch.float64) for r in stack.ranks))
    turned = dataclasses.replace(
        stack, out_stack=stack.out_stack @ turn, in_stack=stack.in_stack @ torch.linalg.inv(turn).T
    )
    assert differences(analysis_of(stack), analysis_of(turned)) == []


def test_scale_changes_norms_and_raw_interference_only():
    stack = rough_stack()
    tenfold = dataclasses.replace(stack, out_stack=10 * stack.out_stack)
    changed = differences(analysis_of(stack), analysis_of(tenfold), but=(".norm", ".sti", "]"))
    assert changed == []
    first, second = (analysis_of(s).modules[0] for s in (stack, tenfold))
    assert second.sti == pytest.approx(10 * first.sti, rel=1e-9)
    assert second.cp.sti == pytest.approx(10 * first.cp.sti, rel=1e-6)
    assert second.cp.participation == pytest.approx(first.cp.participation, rel=1e-6)


def test_order_permutes_pairs_and_adapters_and_changes_nothing_else():
    stack = rough_stack((3, 1, 4))
    order, blocks = [2, 0, 1], stack.blocks()
    turned = ModuleStack(
        stack.names,
        torch.cat([stack.out_stack[:, :, blocks[i]] for i in order], 2),
        torch.cat([stack.in_stack[:, :, blocks[i]] for i in order], 2),
        tuple(stack.ranks[i] for i in order),
    )
    first = analyse_stacks([stack], adapter_names(3), AnalysisSettings(cp_rank=None))
    second = analyse_stacks([turned], [f"a{i}" for i in order], AnalysisSettings(cp_rank=None))
    one, two = first.modules[0], second.modules[0]
    bare = {"pairs": (), "adapters": ()}
    assert differences(dataclasses.replace(one, **bare), dataclasses.replace(two, **bare)) == []
    by_pair = [{frozenset((p.first, p.second)): p for p in module.pairs} for module in (one, two)]
    for key, pair in by_pair[0].items():
        assert differences(pair, by_pair[1][key]) == []
    assert {a.adapter: a.rank for a in one.adapters} == {a.adapter: a.rank for a in two.adapters}


def test_batches_change_nothing():
    stack = rough_stack((3, 1, 4), m=3)
    apart = [
        ModuleStack((stack.names[j],), stack.out_stack[j : j + 1], stack.in_stack[j : j + 1], stack.ranks)
        for j in (2, 0, 1)
    ]
    settings = AnalysisSettings(cp_rank=3)
    assert (
        differences(
            analyse_stacks([stack], adapter_names(3), settings), analyse_stacks(apart, adapter_names(3), settings)
        )
        == []
    )


def test_figures_that_are_not_defined_are_none():
    """One adapter has the module, one lacks it, one is zero there."""
    stack = rough_stack((3, 0, 2))
    out = stack.out_stack.clone()
    out[:, :, 3:] = 0
    figures = figures_of(dataclasses.replace(stack, out_stack=out), cp_rank=4)
    assert figures.n_present == 1
    assert (figures.cosine, figures.shared_energy, figures.pair_sign_conflict) == (None, None, None)
    assert all(pair.cosine is None and pair.out_cosine_mean is None for pair in figures.pairs)
    assert (figures.sti, figures.sign_conflict, figures.cp.shared_energy) == (pytest.approx(0, abs=EXACT), 0.0, None)
    assert [adapter.norm > 0 for adapter in figures.adapters] == [True, False, False]


def test_one_adapter_alone_is_analyzed():
    figures = figures_of(rough_stack((3,)), cp_rank=2)
    assert figures.pairs == ()
    assert figures.cosine is None
    assert figures.adapters[0].participation > 1


def test_a_module_of_zeros_has_figures():
    stack = rough_stack((2, 2))
    figures = figures_of(dataclasses.replace(stack, out_stack=torch.zeros_like(stack.out_stack)), cp_rank=2)
    assert (figures.norm, figures.sti_ratio, figures.cp.sti_ratio, figures.sign_conflict) == (0.0, 0.0, 0.0, None)


def test_the_curve_brackets_the_fits():
    figures = figures_of(rough_stack((3, 2, 4)), cp_rank=4, curve=True)
    assert [point.cp_rank for point in figures.curve] == [1, 2, 4, 5]
    for point in figures.curve:
        # The starts are a hundredth off the model that reaches the lower bound.
        assert point.fit_at_least - 0.01 <= point.fit <= point.fit_at_most + 1e-7
    assert [p.fit for p in figures_of(rough_stack((3, 2, 4)), cp_rank=4).curve if p.fit is not None] == [figures.cp.fit]


def test_places_are_read_from_any_architecture():
    paths = {
        "model.layers.3.self_attn.q_proj": Place(3, "q_proj"),
        "transformer.h.11.attn.c_proj": Place(11, "attn.c_proj"),
        "transformer.h.11.mlp.c_proj": Place(11, "mlp.c_proj"),
        "transformer.h.11.mlp.c_fc": Place(11, "c_fc"),
        "model.layers.0.block_sparse_moe.experts.5.w1": Place(0, "w1"),
        "model.layers.0.block_sparse_moe.experts.6.w1": Place(0, "w1"),
        "down_blocks.1.attentions.0.to_out.0": Place(1, "to_out"),
        "lm_head": Place(None, "lm_head"),
    }
    assert places_of(paths) == paths


def test_summaries_are_means_over_modules():
    stacks = [
        dataclasses.replace(rough_stack((2, 2), seed=s), names=(name,))
        for s, name in enumerate(["layers.0.q", "layers.0.v", "layers.1.q", "head"])
    ]
    analysis = analyse_stacks(stacks, adapter_names(2), AnalysisSettings(cp_rank=2))
    ratio = {m.module: m.sti_ratio for m in analysis.modules}
    found = {(cell.layer, cell.kind): cell for cell in analysis.cells}
    assert list(found) == [
        ("0", "q"),
        ("0", "v"),
        ("1", "q"),
        ("other", "head"),
        *((layer, "all") for layer in ("0", "1", "other")),
        *(("all", kind) for kind in ("head", "q", "v")),
    ]
    assert found["0", "all"].sti_ratio == pytest.approx((ratio["layers.0.q"] + ratio["layers.0.v"]) / 2)
    assert found["all", "q"].sti_ratio == pytest.approx((ratio["layers.0.q"] + ratio["layers.1.q"]) / 2)
    assert analysis.total.n_modules == 4
    assert analysis.total.norm == pytest.approx(np.sqrt(sum(m.norm**2 for m in analysis.modules)))


def test_modules_come_in_order_of_layer():
    stacks = [dataclasses.replace(rough_stack((1, 1)), names=(f"layers.{j}.q",)) for j in (10, 2)]
    stacks.insert(1, dataclasses.replace(rough_stack((1, 1)), names=("embed",)))
    analysis = analyse_stacks(stacks, adapter_names(2), AnalysisSettings(cp_rank=None))
    assert [m.module for m in analysis.modules] == ["layers.2.q", "layers.10.q", "embed"]


def test_wrong_requests_are_refused():
    with pytest.raises(ShapeError, match=r"(?s)another number of adapters.*3 adapters, 2 names"):
        analyse_stacks([rough_stack()], adapter_names(2))
    with pytest.raises(ConfigError, match="one name"):
        analyse_stacks([rough_stack((1, 1))], ["a", "a"])
    with pytest.raises(ConfigError, match="nothing to analyze"):
        analyse_stacks([], adapter_names(2))
    with pytest.raises(ConfigError, match="'cp_rank' of an analysis is too small"):
        AnalysisSettings(cp_rank=0)


def test_figures_are_the_same_with_and_without_a_cp_model():
    stack = rough_stack((3, 1, 0, 4), m=2)
    with_model, without = (
        analyse_stacks([stack], adapter_names(4), AnalysisSettings(cp_rank=rank)) for rank in (3, None)
    )
    for one, two in zip(with_model.modules, without.modules, strict=True):
        assert one.cp is not None
        assert two.cp is None
        bare = {"cp": None, "curve": ()}
        assert dataclasses.replace(one, **bare) == dataclasses.replace(two, **bare)


def test_more_columns_than_rows_are_measured_in_joint_bases():
    """Eight adapters of rank 4 in 20 dimensions; as many figures, and the dense cosine."""
    stack = rough_stack((4,) * 8, d_out=20, d_in=40)
    figures, deltas = figures_of(stack, cp_rank=3), dense_deltas(stack)
    wanted = (deltas[0] * deltas[1]).sum() / np.linalg.norm(deltas[0]) / np.linalg.norm(deltas[1])
    assert figures.pairs[0].cosine == pytest.approx(wanted, abs=EXACT)
    assert figures.out_effective_rank <= 20 < figures.in_effective_rank


def test_few_pairs_at_a_time_change_no_angle(monkeypatch):
    stack = rough_stack((3, 1, 3, 1, 2), m=2)
    whole = analysis_of(stack)
    monkeypatch.setattr(overlap, "_CHUNK_NUMBERS", 1)
    assert differences(whole, analysis_of(stack)) == []
