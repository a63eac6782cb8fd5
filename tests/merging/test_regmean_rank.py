"""Regression mean at a rank of choice: the best delta of that rank on the inputs that were read, by dense oracles."""

import numpy as np
import pytest
import torch
from test_regmean import by_definition, stack_of, statistics_of
from tiny_base import MODULES, bundled_tokenizer, random_on, tiny_llama

from tclora.data import Example
from tclora.errors import ConfigError
from tclora.merging.learning import LearningProblem, RegmeanParams, learn_weights
from tclora.merging.methods.regmean import regmean

# Solving with a Gram matrix of condition up to 1e6 (the ridge) in float64 leaves 1e-9 or so.
SOLVED = 1e-7


def problem(seed=0, ranks=(3, 2, 2), n_rows=15):
    """A stack, unequal weights, and inputs whose directions differ in size and between adapters."""
    rng = np.random.default_rng(seed)
    stack = stack_of(rng, ranks)
    sizes = torch.linspace(0.1, 2, 7, dtype=torch.float64)
    rows = [torch.from_numpy(rng.standard_normal((n_rows, 7))) * sizes.roll(2 * i) for i in range(len(ranks))]
    weights = torch.tensor([[0.5, 0.3, 0.2][: len(ranks)]] * 2, dtype=torch.float64)
    return stack, rows, weights


def params_of(rows, **changes):
    statistics = tuple(statistics_of({"layers.0": r, "layers.1": r}) for r in rows)
    return RegmeanParams(**{"ridge": 1e-4, "statistics": statistics} | changes)


def metric(rows, weights, shrink=0.9, ridge=1e-4):
    """`sum w H` by its definition."""
    grams, w = [(r.mT @ r).numpy() for r in rows], (weights / weights.sum()).tolist()
    floor = ridge * sum(v * np.diag(g).mean() for v, g in zip(w, grams, strict=True))
    h = [shrink * g + (1 - shrink) * np.diag(np.diag(g)) + floor * np.eye(len(g)) for g in grams]
    return sum(v * x for v, x in zip(w, h, strict=True)), h, w


def loss(delta, stack, rows, weights, j=0):
    """What is minimized, summed adapter by adapter, each with its own metric."""
    _, h, w = metric(rows, weights)
    gaps = [delta - stack.delta(i)[j].numpy() for i in range(stack.n)]
    return sum(v * np.trace(gap @ x @ gap.T) for v, gap, x in zip(w, gaps, h, strict=True))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_cut_is_the_svd_in_the_pooled_metric(rank):
    stack, rows, weights = problem()
    found = regmean(stack, params_of(rows, rank=rank), weights).delta
    assert found.lora_a.shape[1] == rank
    for j in range(2):
        deltas = [stack.delta(i)[j].numpy() for i in range(3)]
        grams = [(r.mT @ r).numpy() for r in rows]
        full = by_definition(deltas, grams, weights[j].numpy(), 0.9, 1e-4)
        values, axes = np.linalg.eigh(metric(rows, weights[j])[0])
        root, inverse = axes * values**0.5 @ axes.T, axes * values**-0.5 @ axes.T  # another root than Cholesky's
        u, s, vh = np.linalg.svd(full @ root)
        expected = (u[:, :rank] * s[:rank]) @ vh[:rank] @ inverse
        np.testing.assert_allclose(found.dense()[j].numpy(), expected, atol=SOLVED)


def test_nothing_of_that_rank_comes_closer_to_every_adapter_in_its_own_metric():
    stack, rows, weights = problem()
    found = regmean(stack, params_of(rows, rank=2), weights).delta
    least = loss(found.dense()[0].numpy(), stack, rows, weights[0])
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(20):
            up = found.lora_b[0] + size * torch.randn(9, 2, generator=generator, dtype=torch.float64)
            down = found.lora_a[0] + size * torch.randn(2, 7, generator=generator, dtype=torch.float64)
            assert loss((up @ down).numpy(), stack, rows, weights[0]) > least
    # A plain SVD of the full solution is of that rank too, and farther off: the metric matters.
    u, s, vh = np.linalg.svd(regmean(stack, params_of(rows), weights).delta.dense()[0].numpy())
    assert loss((u[:, :2] * s[:2]) @ vh[:2], stack, rows, weights[0]) > 1.01 * least


def test_at_the_whole_rank_nothing_is_cut():
    stack, rows, weights = problem()
    whole, cut = (regmean(stack, params_of(rows, rank=rank), weights).delta.dense() for rank in (None, 7))
    torch.testing.assert_close(cut, whole)


def test_equal_inputs_give_the_truncated_mean_in_that_metric_and_white_ones_the_svd_of_the_mean():
    stack, _, weights = problem()
    white = [torch.eye(7, dtype=torch.float64)] * 3
    found = regmean(stack, params_of(white, rank=2), weights).delta.dense()[0].numpy()
    mean = sum(w * stack.delta(i)[0].numpy() for i, w in enumerate(weights[0].tolist()))
    u, s, vh = np.linalg.svd(mean)
    np.testing.assert_allclose(found, (u[:, :2] * s[:2]) @ vh[:2], atol=SOLVED)


def test_an_embedding_is_cut_by_how_often_its_tokens_are_read():
    stack, _, weights = problem()
    shares = [torch.rand(7, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]
    found = regmean(stack, params_of(shares, rank=2), weights).delta.dense()[0].numpy()
    dense_rows = [share.sqrt().diag() for share in shares]  # the same inputs, as one-hot rows would give them
    expected = regmean(stack, params_of(dense_rows, rank=2), weights).delta.dense()[0].numpy()
    np.testing.assert_allclose(found, expected, atol=SOLVED)


def test_the_output_error_is_that_of_the_cut_delta():
    stack, rows, weights = problem()
    errors = [
        regmean(stack, params_of(rows, rank=rank), weights).diagnostics[0]["output_error"] for rank in (1, 3, 5, None)
    ]
    assert errors == sorted(errors, reverse=True)
    found = regmean(stack, params_of(rows, rank=2), weights)
    lost = whole = 0.0
    for i, (row, w) in enumerate(zip(rows, weights[0].tolist(), strict=True)):
        own = stack.delta(i)[0]
        lost += w * float(((found.delta.dense()[0] - own) @ row.mT).square().sum())
        whole += w * float((own @ row.mT).square().sum())
    assert found.diagnostics[0]["output_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-6)


def test_ranks_below_one_are_refused():
    with pytest.raises(ConfigError, match=r"'rank' of regmean.*\n.*0"):
        RegmeanParams(rank=0)
    with pytest.raises(ConfigError, match=r"'answer_tokens' of regmean"):
        RegmeanParams(answer_tokens=-1)


def test_answers_are_read_with_their_prompts_and_given_responses_are_not():
    base = tiny_llama(vocab_size=4096, tokenizer=bundled_tokenizer())
    library = [random_on(base, name, 2, seed) for seed, name in enumerate(("one", "two"))]
    pools = {
        name: [Example("Name a fruit.", output=word), Example("Count.")] for name, word in (("one", "a"), ("two", "b"))
    }
    other = {name: [Example(row.instruction, output="x y z") for row in pool] for name, pool in pools.items()}
    learned = [
        learn_weights("regmean", library, LearningProblem(base, given), params={"answer_tokens": n})
        for given, n in ((pools, 5), (other, 5), (pools, 0))
    ]
    tokens = [[one.n_tokens for one in found.statistics] for found in learned]
    assert tokens[0] == tokens[1] != tokens[2]
    for one, two in zip(learned[0].statistics, learned[1].statistics, strict=True):
        assert torch.equal(one.of(MODULES[0]), two.of(MODULES[0]))
