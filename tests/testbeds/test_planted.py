"""Planted adapters: what is written about them is so, and known methods recover what they must."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from tclora.adapters import LoraFactors, make_adapter
from tclora.errors import AdapterMismatchError, ConfigError, ShapeError
from tclora.merging import merge_adapters
from tclora.testbeds.cp_stability import SOLVER, cp_trials
from tclora.testbeds.factor_match import best_pairs, factor_match
from tclora.testbeds.planted import PlantedSpec, plant, stack_of
from tclora.testbeds.recovery import recovery

SMALL = PlantedSpec(n_adapters=4, d_out=40, d_in=32, rank=5, n_shared=2)
# Adapters are float32; ten roundings of the largest entry cover a product of rank 5 and a mixing of condition 4.
FLOAT32 = 10 * torch.finfo(torch.float32).eps


def delta(adapter, module="model.layers.0.proj"):
    factors = adapter.modules[module]
    return factors.lora_b.double() @ factors.lora_a.double()


@pytest.mark.parametrize("changed", [{}, {"overlap": 0.5}, {"sign_conflict": 0.3}, {"spread": 0.7}], ids=str)
def test_an_adapter_is_the_sum_of_its_terms(changed):
    world = plant(replace(SMALL, **changed), seed=3)
    for module, terms in world.terms.items():
        for i, adapter in enumerate(world.adapters):
            dense = (terms.out * terms.adapter[i]) @ terms.in_.mT
            assert torch.allclose(delta(adapter, module), dense, atol=FLOAT32, rtol=0)


def test_directions_have_unit_length_and_meet_at_the_overlap():
    spec = replace(SMALL, overlap=0.36)
    terms = plant(spec, seed=0).terms["model.layers.0.proj"]
    for side in (terms.out, terms.in_):
        gram = side.mT @ side
        first, second = spec.n_shared, spec.n_shared + spec.n_private
        assert torch.allclose(gram.diagonal(), torch.ones(gram.shape[0], dtype=torch.float64))
        assert float(gram[first, second]) == pytest.approx(0.36)
        # Everything else is orthogonal, the shared directions to all.
        assert float(gram[0, 1:].abs().max()) < 1e-12
        assert abs(float(gram[first, second + 1])) < 1e-12


def test_conflicts_turn_the_share_of_adapters_that_was_asked_for():
    world = plant(replace(SMALL, n_adapters=5, sign_conflict=0.4), seed=0)
    for terms in world.terms.values():
        assert (terms.adapter[:, : SMALL.n_shared] < 0).sum(dim=0).tolist() == [2, 2]


def test_noise_has_the_size_that_was_asked_for_and_keeps_the_rank():
    spec = replace(SMALL, noise=0.01)
    noisy, clean = (plant(s, seed=0).adapters[0] for s in (spec, replace(spec, noise=0.0)))
    off = torch.linalg.matrix_norm(delta(noisy) - delta(clean)) / torch.linalg.matrix_norm(delta(clean))
    # The second order of the noise adds a share of about its own size, a hundredth.
    assert float(off) == pytest.approx(0.01, rel=0.05)
    assert noisy.shapes["model.layers.0.proj"].r == spec.rank


def test_mixing_changes_factors_and_no_delta():
    mixed, plain = (plant(replace(SMALL, scrambled=value), seed=1).adapters[0] for value in (True, False))
    assert torch.allclose(delta(mixed), delta(plain), atol=FLOAT32, rtol=0)
    path = "model.layers.0.proj"
    assert not torch.allclose(mixed.modules[path].lora_b, plain.modules[path].lora_b, atol=0.1)


def test_equal_arguments_give_equal_bytes_and_no_global_state_moves():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, other = (plant(replace(SMALL, noise=0.1), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    path = "model.layers.0.proj"
    assert torch.equal(first.adapters[2].modules[path].lora_a, second.adapters[2].modules[path].lora_a)
    assert not torch.equal(first.adapters[2].modules[path].lora_a, other.adapters[2].modules[path].lora_a)


def test_the_mean_recovers_its_truth_and_not_the_others():
    world = plant(SMALL, seed=0)
    mean = merge_adapters(world.adapters, "mean").adapter
    assert recovery(mean, world.truths["mean"]).error < FLOAT32 * 10
    assert recovery(mean, world.truths["keep"]).error > 0.3


def test_the_sum_holds_every_private_part_and_a_shared_part_that_is_n_times_too_large():
    world = plant(SMALL, seed=0)
    total = merge_adapters(world.adapters, "task_arithmetic").adapter
    shared = delta(world.truths["shared"])
    assert torch.allclose(delta(total), delta(world.truths["keep"]) + 3 * shared, atol=FLOAT32 * 10, rtol=0)


def test_without_a_shared_part_the_sum_keeps_everything():
    world = plant(replace(SMALL, n_shared=0, rank=4), seed=0)
    total = merge_adapters(world.adapters, "task_arithmetic").adapter
    assert recovery(total, world.truths["keep"]).error < FLOAT32 * 10


def test_recovery_at_the_best_scale_is_the_sine_of_the_angle():
    truth = make_adapter("t", {"a": LoraFactors(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0]]))})
    found = make_adapter("f", {"a": LoraFactors(torch.tensor([[3.0, 3.0]]), torch.tensor([[1.0]]))})
    got = recovery(found, truth)
    # (3, 3) against (2, 0): the difference is (1, 3), the best multiple is a third, and the angle 45 degrees.
    assert got.error == pytest.approx(10**0.5 / 2)
    assert got.best_scale == pytest.approx(1 / 3)
    assert got.best_error == pytest.approx(0.5**0.5)


def test_recovery_refuses_other_modules_and_a_truth_of_zeros():
    one, other = (make_adapter(n, {n: LoraFactors(torch.ones(1, 2), torch.ones(2, 1))}) for n in ("a", "b"))
    with pytest.raises(AdapterMismatchError, match="different modules"):
        recovery(one, other)
    zero = make_adapter("z", {"a": LoraFactors(torch.zeros(1, 2), torch.ones(2, 1))})
    with pytest.raises(AdapterMismatchError, match="nothing to recover"):
        recovery(one, zero)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"n_shared": 6}, "shared directions exceed the rank"),
        ({"n_adapters": 20}, "do not fit"),
        ({"overlap": 1.0}, "overlap of planted adapters is too large"),
        ({"sign_conflict": 0.5}, "sign_conflict of planted adapters is too large"),
        ({"noise": -0.1}, "noise of planted adapters is too small"),
        ({"n_adapters": 0}, "n_adapters of planted adapters is too small"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_planted_is_refused(changed, text):
    with pytest.raises(ConfigError, match=text):
        replace(SMALL, **changed)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (5, 5), (2, 6), (6, 2)], ids=str)
def test_pairs_are_those_of_the_best_permutation(shape):
    rng = np.random.default_rng(shape)
    for _ in range(20):
        score = rng.normal(size=shape)
        small, large = sorted(shape)
        tall = score if shape[0] <= shape[1] else score.T
        best = max(sum(tall[i, p[i]] for i in range(small)) for p in itertools.permutations(range(large), small))
        pairs = best_pairs(score)
        assert len(pairs) == small == len({r for r, _ in pairs}) == len({c for _, c in pairs})
        assert sum(score[r, c] for r, c in pairs) == pytest.approx(best)


def test_factor_match_ignores_order_size_and_signs_that_cancel():
    generator = torch.Generator().manual_seed(0)
    modes = [torch.randn(size, 4, generator=generator, dtype=torch.float64) for size in (7, 6, 5)]
    turned = [modes[0][:, [2, 0, 3, 1]] * -3, modes[1][:, [2, 0, 3, 1]] * -0.1, modes[2][:, [2, 0, 3, 1]]]
    assert factor_match(turned, modes) == pytest.approx(1)
    assert factor_match([turned[0] * -1, turned[1], turned[2]], modes) < 0.5
    # Half of the terms can match at most by half.
    assert factor_match([mode[:, :2] for mode in modes], modes) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ShapeError, match="other modes"):
        factor_match(modes[:2], modes)


CP = PlantedSpec(n_adapters=5, d_out=24, d_in=20, rank=3, n_shared=3, spread=0.8, n_modules=2)


def test_cp_finds_what_was_planted_and_every_start_is_told():
    trials = cp_trials(plant(CP, seed=0), cp_rank=3, sweeps=300, n_starts=3)
    assert {trial.start for trial in trials} == {SOLVER, "task_svd", "hosvd", "normal_0", "normal_1", "normal_2"}
    assert len(trials) == 6 * CP.n_modules
    solver = [trial for trial in trials if trial.start == SOLVER]
    # Without noise the model is exact; the adapters themselves are rounded to float32.
    assert all(trial.relative_error < 1e-4 and trial.factor_match > 0.9999 for trial in solver)


def test_cp_of_too_few_terms_or_noise_finds_less():
    few = [t for t in cp_trials(plant(CP, seed=0), cp_rank=2, sweeps=100, n_starts=2) if t.start == SOLVER]
    assert all(0.3 < trial.factor_match < 0.7 and trial.relative_error > 0.1 for trial in few)
    noisy = [t for t in cp_trials(plant(replace(CP, noise=2.0), seed=0), cp_rank=3, sweeps=100, n_starts=2)]
    assert max(trial.factor_match for trial in noisy) < 0.99


def test_the_error_of_a_start_is_that_of_its_own_model():
    world = plant(replace(CP, noise=0.5), seed=0)
    trials = cp_trials(world, cp_rank=2, sweeps=200, n_starts=0)
    dense = torch.stack([stack_of(world).delta(i)[0] for i in range(CP.n_adapters)], dim=2)
    by_svd = torch.linalg.svdvals(dense.reshape(24, -1))
    # No model of two terms beats the two leading singular vectors of the unfolding, and none is worse than nothing.
    bound = float(by_svd[2:].square().sum().sqrt() / by_svd.square().sum().sqrt())
    first = [trial for trial in trials if trial.module == "model.layers.0.proj"]
    assert all(bound <= trial.relative_error < 1 for trial in first)
    with pytest.raises(ConfigError, match="nothing to try"):
        cp_trials(world, cp_rank=2, sweeps=0, n_starts=0)
