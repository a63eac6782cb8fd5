"""Each method against its definition in dense float64, and the component rules against their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import dense, distance, random_adapter, weighted_sum

from tclora.errors import ConfigError
from tclora.merging import COMPONENT_RULES, component_weights, merge_adapters

FLOAT32 = 1e-6


def library(n: int = 3, r: int = 2):
    return [random_adapter(f"a{i}", r + i % 2, i) for i in range(n)]


def uniform(n: int) -> list[float]:
    return [1 / n] * n


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    weights=st.lists(st.floats(-2, 2).filter(lambda w: abs(w) > 1e-3), min_size=6, max_size=6),
)
def test_mean_is_the_weighted_sum_of_deltas(ranks, weights):
    """Ranks up to 54 against d_in = 16: beyond the module's own size as well."""
    adapters = [random_adapter(f"a{i}", r, i, layers=1) for i, r in enumerate(ranks)]
    chosen = weights[: len(ranks)]
    merged = merge_adapters(adapters, "mean", adapter_weights=chosen).adapter
    assert distance(dense(merged), weighted_sum(adapters, chosen)) < FLOAT32


def test_mean_beyond_the_modules_size_is_written_at_full_rank():
    merged = merge_adapters([random_adapter(f"a{i}", 9, i) for i in range(4)], "mean")
    assert merged.out_rank == 16


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_svd_is_the_best_approximation_of_its_rank(rank):
    adapters = library()
    merged = merge_adapters(adapters, "svd", params={"rank": rank})
    for name, total in weighted_sum(adapters, uniform(3)).items():
        u, s, vh = torch.linalg.svd(total, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert distance({name: dense(merged.adapter)[name]}, {name: best}) < FLOAT32
        lost = float(s[rank:].norm() / s.norm())
        assert merged.modules[name]["relative_error"] == pytest.approx(lost, abs=1e-12)


def test_svd_takes_the_largest_rank_of_the_adapters_by_default():
    assert merge_adapters(library(), "svd").out_rank == 3


@pytest.mark.parametrize("cp_rank", [7, 12, 100])
def test_tc_lora_at_full_cp_rank_is_the_mean(cp_rank):
    adapters = library()
    merged = merge_adapters(adapters, "tc_lora", params={"cp_rank": cp_rank})
    assert distance(dense(merged.adapter), weighted_sum(adapters, uniform(3))) < 1e-5
    assert merged.relative_error < 1e-9


def test_the_error_of_the_merge_is_that_of_the_dense_tensors():
    """The figure reported over modules equals the Frobenius ratio of the dense residual to the dense stack."""
    adapters = library()
    parts = [
        merge_adapters(adapters, "tc_lora", params={"cp_rank": 3, "rule": "weighted"}, adapter_weights=unit)
        for unit in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    ]
    lost = whole = 0.0
    for adapter, part in zip(adapters, parts, strict=True):
        restored = dense(part.adapter)
        for name, delta in dense(adapter).items():
            lost += float((restored[name] - delta).norm() ** 2)
            whole += float(delta.norm() ** 2)
    assert parts[0].relative_error == pytest.approx(math.sqrt(lost / whole), rel=1e-5)


def test_a_missing_module_is_a_zero_delta():
    short = random_adapter("short", 2, 9, leaves=("mlp.up_proj",))
    adapters = [random_adapter("full", 2, 1), short]
    for method in ("mean", "tc_lora"):
        merged = merge_adapters(adapters, method).adapter
        assert distance(dense(merged), weighted_sum(adapters, [0.5, 0.5])) < 1e-5


N = 4
SHARED = torch.full((1, N, 1), 2.0, dtype=torch.float64)
PRIVATE = torch.tensor([3.0, 0, 0, 0], dtype=torch.float64)[None, :, None]
TORN = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)[None, :, None]


def omega(coordinates, rule, weights=None, share=0.5):
    chosen = torch.full((N,), 1 / N, dtype=torch.float64) if weights is None else torch.tensor(weights)
    return component_weights(coordinates, rule, chosen.double()[None], share).item()


@pytest.mark.parametrize(
    ("rule", "shared", "private", "torn"),
    [
        ("mean", 2.0, 3 / N, 0.0),
        ("weighted", 2.0, 3 / N, 0.0),
        ("sum", 2.0 * N, 3.0, 0.0),
        ("rms", 2.0, 3 / math.sqrt(N), 1.0),
        ("consensus", 2.0, 3 / N, 0.0),
        ("shared_only", 2.0, 0.0, 0.0),
        ("self_weighted", 2.0, 3.0, 0.0),
    ],
)
def test_what_each_rule_makes_of_a_shared_a_private_and_a_torn_direction(rule, shared, private, torn):
    found = [omega(a, rule) for a in (SHARED, PRIVATE, TORN)]
    assert found == pytest.approx([shared, private, torn])


@pytest.mark.parametrize("rule", sorted(COMPONENT_RULES))
def test_a_rule_does_not_depend_on_the_sign_convention_of_a_term(rule):
    a = torch.tensor([2.0, 1.0, -0.5, 3.0], dtype=torch.float64)[None, :, None]
    assert omega(-a, rule) == pytest.approx(-omega(a, rule))


@pytest.mark.parametrize("rule", sorted(COMPONENT_RULES))
def test_a_term_that_nobody_holds_stays_zero(rule):
    assert omega(torch.zeros_like(SHARED), rule) == 0.0


@pytest.mark.parametrize("rule", ["rms", "consensus", "self_weighted"])
def test_rules_of_sizes_refuse_negative_weights(rule):
    with pytest.raises(ConfigError, match="negative"):
        omega(SHARED, rule, [0.5, -0.5, 0.5, 0.5])


@pytest.mark.parametrize("rule", sorted(COMPONENT_RULES))
def test_every_rule_merges(rule):
    merged = merge_adapters(library(), "tc_lora", params={"cp_rank": 3, "rule": rule, "max_iter": 20})
    assert merged.identity_error < 1e-6


def test_self_weighted_keeps_a_private_adapter_whole_where_the_mean_shrinks_it():
    """Planted: two adapters on different modules share nothing; each is private."""
    q = random_adapter("q", 1, 1, leaves=("self_attn.q_proj",))
    up = random_adapter("up", 1, 2, leaves=("mlp.up_proj",))
    whole = merge_adapters([q, up], "tc_lora", params={"rule": "self_weighted"}).adapter
    assert distance(dense(whole), weighted_sum([q, up], [1.0, 1.0])) < 1e-5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cp_rank": 0}, "cp_rank"),
        ({"cp_rank": "many"}, "no rule for CP ranks"),
        ({"cp_rank": 2.5}, "no rule for CP ranks"),
        ({"cp_rank": True}, "wrong type"),
        ({"rule": "median"}, "no such value"),
        ({"shared_share": 2}, "shared_share"),
        ({"cprank": 3}, "did you mean 'cp_rank'"),
    ],
)
def test_wrong_parameters_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        merge_adapters(library(), "tc_lora", params=values)
