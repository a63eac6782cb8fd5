"""Regression mean against its definition in dense float64, and its statistics against the model's own pass."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import dense, distance, random_adapter, weighted_sum
from tiny_base import MODULES, random_on, tiny_llama

from tclora.adapters import LoraFactors, make_adapter
from tclora.algebra import ModuleStack
from tclora.errors import ConfigError
from tclora.merging import merge_adapters, merge_card, merge_record, parse_params
from tclora.merging.learning import AdapterStatistics, RegmeanParams
from tclora.merging.learning.regmean import _some, _statistics
from tclora.merging.learning.statistics import InputRows
from tclora.merging.methods.regmean import regmean
from tclora.models import Tokens, attached

FLOAT32 = 1e-6
# Solving with a Gram matrix of condition up to 1e6 (the ridge) in float64 leaves 1e-9 or so.
SOLVED = 1e-7


def statistics_of(rows_by_module: dict[str, torch.Tensor], n_tokens: int = 10) -> AdapterStatistics:
    return AdapterStatistics({name: name for name in rows_by_module}, rows_by_module, n_tokens)


def stack_of(rng, ranks, m=2, d_out=9, d_in=7) -> ModuleStack:
    draw = lambda d: torch.from_numpy(rng.standard_normal((m, d, sum(ranks))))  # noqa: E731
    return ModuleStack(tuple(f"layers.{j}" for j in range(m)), draw(d_out), draw(d_in), tuple(ranks))


def by_definition(deltas, grams, weights, shrink, ridge):
    """Dense: (sum w Delta H) (sum w H)^-1 with H = shrink G + (1 - shrink) diag(G) + ridge * mean diagonal."""
    weights = np.asarray(weights) / np.sum(weights)
    size = sum(w * np.diag(g).mean() for w, g in zip(weights, grams, strict=True))
    floor = ridge * size if size > 0 else 1.0
    h = [shrink * g + (1 - shrink) * np.diag(np.diag(g)) + floor * np.eye(len(g)) for g in grams]
    left = sum(w * d @ x for w, d, x in zip(weights, deltas, h, strict=True))
    return left @ np.linalg.inv(sum(w * x for w, x in zip(weights, h, strict=True)))


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any),
    n_rows=st.lists(st.integers(0, 12), min_size=4, max_size=4),
    shrink=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_regmean_is_its_definition(ranks, n_rows, shrink, seed):
    """Ranks of 0, sums of ranks beyond the module, Gram matrices of any rank down to zero."""
    rng = np.random.default_rng(seed)
    stack, n = stack_of(rng, ranks), len(ranks)
    weights = torch.from_numpy(rng.uniform(0.1, 2, (2, n)))
    rows = [{name: torch.from_numpy(rng.standard_normal((k, 7))) for name in stack.names} for k in n_rows[:n]]
    params = RegmeanParams(shrink=shrink, ridge=1e-4, statistics=tuple(statistics_of(r) for r in rows))
    found = regmean(stack, params, weights).delta.dense()
    for j, name in enumerate(stack.names):
        grams = [(r[name].mT @ r[name]).numpy() for r in rows]
        deltas = [stack.delta(i)[j].numpy() for i in range(n)]
        expected = by_definition(deltas, grams, weights[j].numpy(), shrink, 1e-4)
        np.testing.assert_allclose(found[j].numpy(), expected, atol=SOLVED * max(1, np.abs(expected).max()))


def test_an_embedding_is_merged_token_by_token():
    """Its inputs are one-hot, so the Gram matrix is the diagonal of the tokens' shares."""
    rng = np.random.default_rng(0)
    stack = stack_of(rng, (2, 3))
    shares = [torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0]), torch.tensor([0, 0.25, 0.75, 0, 0, 0, 0])]
    params = RegmeanParams(statistics=tuple(statistics_of(dict.fromkeys(stack.names, s)) for s in shares))
    result = regmean(stack, params, torch.full((2, 2), 0.5, dtype=torch.float64))
    found, (a, b) = result.delta.dense(), (stack.delta(0), stack.delta(1))
    expected = by_definition([a[0].numpy(), b[0].numpy()], [np.diag(s.numpy()) for s in shares], [1, 1], 0.9, 1e-6)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=SOLVED)
    # A token that one adapter read is that adapter's; a token that nobody read is the mean of both.
    torch.testing.assert_close(found[:, :, 0], a[:, :, 0], atol=1e-4, rtol=1e-4)  # the ridge, 1e-6 over shares of 0.5
    torch.testing.assert_close(found[:, :, 6], (a + b)[:, :, 6] / 2)


def test_inputs_that_nobody_saw_are_merged_by_the_mean_and_seen_ones_by_who_saw_them():
    rng = np.random.default_rng(1)
    stack = stack_of(rng, (3, 3))
    rows = []
    for seen in (slice(0, 3), slice(3, 6)):
        inputs = torch.zeros(20, 7, dtype=torch.float64)
        inputs[:, seen] = torch.from_numpy(rng.standard_normal((20, 3)))
        rows.append(statistics_of(dict.fromkeys(stack.names, inputs)))
    result = regmean(stack, RegmeanParams(statistics=tuple(rows)), torch.full((2, 2), 0.5, dtype=torch.float64))
    found, (a, b) = result.delta.dense(), (stack.delta(0), stack.delta(1))
    # The ridge is 1e-6 of the mean diagonal; the least direction that was seen has a tenth of it.
    torch.testing.assert_close(found[:, :, :3], a[:, :, :3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, :, 3:6], b[:, :, 3:6], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, :, 6], (a + b)[:, :, 6] / 2)
    # Each adapter's outputs on its own inputs are kept: nothing of them is lost.
    assert all(figures["output_error"] < 1e-4 for figures in result.diagnostics)


def test_the_output_error_is_that_of_dense_outputs_and_less_than_the_means():
    rng = np.random.default_rng(2)
    stack = stack_of(rng, (2, 2, 1))
    rows = [torch.from_numpy(rng.standard_normal((15, 7))) * torch.linspace(0.1, 2, 7) ** (i - 1) for i in range(3)]
    statistics = tuple(statistics_of(dict.fromkeys(stack.names, r)) for r in rows)
    weights = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    result = regmean(stack, RegmeanParams(shrink=1.0, statistics=statistics), weights)

    def error(delta, j):
        lost = sum(((delta - stack.delta(i)[j]) @ r.mT).norm() ** 2 for i, r in enumerate(rows))
        return float((lost / sum((stack.delta(i)[j] @ r.mT).norm() ** 2 for i, r in enumerate(rows))).sqrt())

    for j, figures in enumerate(result.diagnostics):
        assert figures["output_error"] == pytest.approx(error(result.delta.dense()[j], j), rel=1e-6)
        assert figures["output_error"] < error(sum(stack.delta(i)[j] for i in range(3)) / 3, j)


@settings(max_examples=20, deadline=None)
@given(n_rows=st.lists(st.integers(1, 40), min_size=1, max_size=6), width=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_a_factor_keeps_the_gram_matrix_of_all_passes_in_few_rows(n_rows, width, seed):
    rng = np.random.default_rng(seed)
    kept, passes = InputRows(width), [rng.standard_normal((k, width)) for k in n_rows]
    for rows in passes:
        kept.add(torch.from_numpy(rows).float())
    n = sum(n_rows)
    factor = kept.factor(n).double().numpy()
    assert factor.shape[0] <= min(n, width)
    whole = np.concatenate(passes)
    # Rows are float32.
    np.testing.assert_allclose(factor.T @ factor, whole.T @ whole / n, atol=1e-5)


@pytest.fixture(scope="module")
def base():
    return tiny_llama()


ROWS = [Tokens((1, 5, 9, 11, 3, 2), 6), Tokens((1, 7), 2), Tokens((4, 8, 15, 16), 4)]


def own_inputs(base, name):
    """What a module reads over all rows, one row at a time."""
    seen = []
    hook = base.model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        for row in ROWS:
            base.model(torch.tensor([row.ids]))
    hook.remove()
    return torch.cat(seen)


def test_statistics_are_those_of_the_models_own_pass(base):
    adapter = random_on(base, "a", 2, 1)
    names = [*MODULES, "model.embed_tokens"]
    widths = dict.fromkeys(MODULES, 16) | {"model.embed_tokens": 64}
    with attached(base, adapter):
        found = _statistics(base, names, widths, ROWS, 2)
        for name in MODULES:
            rows = own_inputs(base, name).double()
            gram = found.of(name).double()
            torch.testing.assert_close(gram.mT @ gram, rows.mT @ rows / 12, atol=1e-5, rtol=1e-4)  # float32 inputs
        counts = torch.bincount(own_inputs(base, "model.embed_tokens"), minlength=64) / 12
    torch.testing.assert_close(found.of("model.embed_tokens"), counts.float())
    assert found.n_tokens == 12


def test_no_more_tokens_are_read_than_asked_for_and_which_depends_on_the_seed_alone():
    rows = [Tokens(tuple(range(k, k + 10)), 10) for k in range(20)]
    draw = lambda seed, limit: _some(rows, limit, np.random.default_rng(seed))  # noqa: E731
    assert sum(len(row.ids) for row in draw(0, 33)) == 33
    assert sum(len(row.ids) for row in draw(0, 10**6)) == 200
    assert draw(0, 33) == draw(0, 33) != draw(1, 33)


def library(method_size: float = 1.0):
    return [
        random_adapter("a", 2, 1, size=method_size),
        random_adapter("b", 3, 2, size=method_size),
        random_adapter("c", 2, 3, leaves=("mlp.up_proj",), size=method_size),
    ]


def learned_params(adapters, seed: int = 0, **given) -> RegmeanParams:
    rng, names = np.random.default_rng(seed), sorted(set().union(*(a.shapes for a in adapters)))
    statistics = [
        statistics_of({name: torch.from_numpy(rng.standard_normal((5, 16))).float() for name in names})
        for _ in adapters
    ]
    return RegmeanParams(statistics=tuple(statistics), **given)


def test_order_changes_no_bit():
    adapters = library()
    params = learned_params(adapters)
    first = merge_adapters(adapters, "regmean", params=params, adapter_weights=[0.5, 0.3, 0.2]).adapter
    turned = merge_adapters(
        adapters[::-1], "regmean", params=params.in_order((2, 1, 0)), adapter_weights=[0.2, 0.3, 0.5]
    ).adapter
    assert all(torch.equal(first.modules[n].lora_a, turned.modules[n].lora_a) for n in first.modules)
    assert all(torch.equal(first.modules[n].lora_b, turned.modules[n].lora_b) for n in first.modules)


def test_one_adapter_comes_back_whatever_it_read():
    alone = [random_adapter("a", 4, 7)]
    merged = merge_adapters(alone, "regmean", params=learned_params(alone))
    assert distance(dense(merged.adapter), dense(alone[0])) < FLOAT32
    assert merged.out_rank == 4 and merged.identity_error < 1e-6


def test_equal_adapters_merge_to_one_of_them():
    same = [random_adapter(name, 2, 5) for name in "abc"]
    merged = merge_adapters(same, "regmean", params=learned_params(same)).adapter
    assert distance(dense(merged), dense(same[0])) < FLOAT32


def test_equal_inputs_give_the_weighted_mean():
    adapters = library()
    params = learned_params(adapters)
    equal = dataclasses.replace(params, statistics=(params.statistics[0],) * 3)
    merged = merge_adapters(adapters, "regmean", params=equal, adapter_weights=[1.0, 1.0, 2.0]).adapter
    assert distance(dense(merged), weighted_sum(adapters, [0.25, 0.25, 0.5])) < FLOAT32


def test_the_scale_of_the_adapters_carries_over_and_only_ratios_of_weights_count():
    one, tenfold = library(), library(10.0)
    params = learned_params(one)
    merged = dense(merge_adapters(one, "regmean", params=params).adapter)
    scaled = dense(merge_adapters(tenfold, "regmean", params=params, adapter_weights=[5.0] * 3).adapter)
    assert distance(scaled, {name: 10 * delta for name, delta in merged.items()}) < 1e-5  # float32 factors, twice


def test_how_an_adapter_is_factored_does_not_matter():
    adapters, turn = library(), torch.tensor([[2.0, 1.0], [0.0, 0.25]])
    modules = {
        name: LoraFactors(torch.linalg.inv(turn) @ f.lora_a, f.lora_b @ turn) for name, f in adapters[0].modules.items()
    }
    params = learned_params(adapters)
    turned = [make_adapter("a", modules, base_model="org/base"), *adapters[1:]]
    results = [dense(merge_adapters(given, "regmean", params=params).adapter) for given in (adapters, turned)]
    assert distance(results[0], results[1]) < 1e-5  # inverting the gauge in float32


def test_beyond_the_modules_size_the_result_has_its_full_rank():
    adapters = [random_adapter(name, 9, seed) for seed, name in enumerate("abc")]
    assert merge_adapters(adapters, "regmean", params=learned_params(adapters)).out_rank == 16


def test_statistics_stay_out_of_record_and_card():
    adapters = library()
    result = merge_adapters(adapters, "regmean", params=learned_params(adapters))
    assert "statistics" not in merge_record(result, dtype="bf16", out=None).params
    assert "statistics" not in merge_card(result, dtype="bf16")
    assert "shrink=0.9" in merge_card(result, dtype="bf16")


def one_short(params: RegmeanParams) -> RegmeanParams:
    return dataclasses.replace(params, statistics=params.statistics[:2])


def without_module(params: RegmeanParams) -> RegmeanParams:
    first = params.statistics[0]
    kept = {name: rows for name, rows in first.factors.items() if "layers.1" not in name}
    return dataclasses.replace(params, statistics=(statistics_of(kept), *params.statistics[1:]))


def of_other_size(params: RegmeanParams) -> RegmeanParams:
    other = statistics_of(dict.fromkeys(params.statistics[0].factors, torch.ones(3, 5)))
    return dataclasses.replace(params, statistics=(other, *params.statistics[1:]))


@pytest.mark.parametrize(
    ("change", "weights", "said"),
    [
        (lambda p: RegmeanParams(), None, r"(?s)needs statistics.*none.*--base and --examples, or --learned FILE"),
        (one_short, None, "2 values for 3 adapters"),
        (without_module, None, r"(?s)no statistics of the inputs.*layers\.1"),
        (of_other_size, None, r"(?s)of another size.*inputs of 5 numbers"),
        (lambda p: p, [0.5, -0.5, 1.0], "no negative adapter weights"),
        (lambda p: p, [0.0, 0.0, 0.0], "not all of them zero"),
    ],
)
def test_what_cannot_be_merged_is_refused(change, weights, said):
    adapters = library()
    with pytest.raises(ConfigError, match=said):
        merge_adapters(adapters, "regmean", params=change(learned_params(adapters)), adapter_weights=weights)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shrink": 1.5}, "shrink"),
        ({"ridge": 0}, "ridge"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"active": "both"}, "no such value"),
        ({"statistics": "some.json"}, "statistics"),
    ],
)
def test_wrong_parameters_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        parse_params("regmean", values)
