"""Inner products from Gram matrices of the factors, against singular vectors in float64, whatever the conditioning."""

import dataclasses

import numpy as np
import pytest
import torch
from planted_overlap import rough_stack

from tclora.algebra import ModuleStack, compress_stack, cp_als, cp_bounds
from tclora.analysis.fit_bounds import fit_bounds
from tclora.analysis.gram_path import singular_grams
from tclora.analysis.grams import SingularGrams, adapter_gram, grams_of
from tclora.analysis.own_axes import in_own_axes
from tclora.errors import NumericalError

# Sums of thousands of float32 products are good to about 2e-7 of unit columns; singular vectors turn by that over the
# gaps of singular values, which are a few hundredths here.
FLOAT32_GRAM = 2e-5


def large_stack(ranks=(8,) * 8, *, own: float = 1.0, m: int = 1, seed: int = 0) -> ModuleStack:
    """Float32 sides of 4,608 rows and 64 columns or more; `own` is the size of what adapters do not share."""
    generator, total = torch.Generator().manual_seed(seed), sum(ranks)

    def side(d: int) -> torch.Tensor:
        common = torch.randn(m, d, max(ranks), generator=generator)
        repeated = torch.cat([common[:, :, :r] for r in ranks], dim=2)
        return repeated + own * torch.randn(m, d, total, generator=generator)

    return ModuleStack(tuple(f"layers.{j}.up_proj" for j in range(m)), side(4608), side(4200), tuple(ranks))


def by_definition(stack: ModuleStack, j: int = 0) -> dict[str, np.ndarray]:
    """Absolute inner products, values and spectra from QR and SVD in float64."""
    sides, values = ([], []), []
    for block in stack.blocks():
        (qb, rb), (qa, ra) = (np.linalg.qr(s[j, :, block].double().numpy()) for s in (stack.out_stack, stack.in_stack))
        u, s, vh = np.linalg.svd(rb @ ra.T)
        sides[0].append(qb @ u)
        sides[1].append(qa @ vh.T)
        values.append(s)
    s = np.concatenate(values)
    u, v = (np.hstack(side) for side in sides)
    return {
        "out_gram": np.abs(u.T @ u),
        "in_gram": np.abs(v.T @ v),
        "values": s,
        "out_spectrum": np.linalg.svd(np.linalg.qr(u)[1] * s, compute_uv=False),
        "in_spectrum": np.linalg.svd(np.linalg.qr(v)[1] * s, compute_uv=False),
    }


def errors_of(grams: SingularGrams, stack: ModuleStack, j: int = 0) -> dict[str, float]:
    """The largest error of each part: of inner products as they are, of values as shares of the largest."""
    wanted = by_definition(stack, j)
    found = {name: getattr(grams, name)[j].abs().numpy() for name in wanted}
    sizes = {name: 1.0 if name.endswith("gram") else wanted[name].max() for name in wanted}
    return {name: float(np.abs(found[name] - wanted[name]).max() / sizes[name]) for name in wanted}


def test_the_comparison_can_fail():
    stack = large_stack()
    assert max(errors_of(singular_grams(large_stack(seed=1)), stack).values()) > 0.01


@pytest.mark.parametrize("ranks", [(8,) * 8, (3, 16, 0, 21, 24, 1)])
def test_large_float32_sides_are_good_to_a_few_parts_in_a_million(ranks):
    stack = large_stack(ranks)
    assert max(errors_of(singular_grams(stack), stack).values()) < FLOAT32_GRAM


def test_small_and_double_stacks_are_exact():
    stack = rough_stack((3, 1, 0, 4))
    # Columns of random adapters are conditioned like 30 or better, and the square of that is lost.
    assert max(errors_of(singular_grams(stack), stack).values()) < 1e-12


def test_nearly_equal_adapters_keep_what_sets_them_apart():
    """Differences of a thousandth: in float32 their singular values would be made of rounding."""
    stack = large_stack(own=1e-3)
    errors = errors_of(singular_grams(stack), stack)
    assert max(errors.values()) < 1e-9
    own = singular_grams(stack).out_spectrum[0, 8:]
    assert own == pytest.approx(by_definition(stack)["out_spectrum"][8:], rel=1e-6)


def test_equal_adapters_have_as_many_directions_as_one():
    stack = large_stack(own=0.0)
    grams = singular_grams(stack)
    # Roots of eigenvalues that are 0 up to 64 roundings.
    assert float(grams.out_spectrum[0, 8:].max() / grams.out_spectrum[0, 0]) < 1e-6
    assert grams.out_gram[0, :8, 8:16] == pytest.approx(np.eye(8), abs=1e-9)


def test_an_adapter_with_dependent_columns_is_compressed_instead():
    stack = large_stack(m=3)
    out, into = stack.out_stack.clone(), stack.in_stack.clone()
    out[1, :, 9], into[1, :, 9] = out[1, :, 8], 0.5 * into[1, :, 10]
    spoiled = dataclasses.replace(stack, out_stack=out, in_stack=into)
    grams, alone = singular_grams(spoiled), grams_of(compress_stack(spoiled))
    for j in range(3):
        assert grams.values[j].numpy() == pytest.approx(alone.values[j].numpy(), rel=1e-5, abs=1e-5)
        assert errors_of(grams, spoiled, j)["out_spectrum"] < FLOAT32_GRAM
    # One of eight directions of that adapter is lost in each factor, and one in the product.
    assert grams.values[1, 8:16].count_nonzero() == 7
    assert grams.values[0, 8:16].count_nonzero() == 8


@pytest.mark.parametrize("side", ["out_stack", "in_stack"])
def test_zero_adapters_and_zero_columns_have_no_directions(side):
    stack = large_stack()
    columns = getattr(stack, side).clone()
    columns[:, :, 16:24] = 0
    columns[:, :, 3] = 0
    grams = singular_grams(dataclasses.replace(stack, **{side: columns}))
    assert [int(r) for r in grams.numerical_ranks()[0]] == [7, 8, 0, 8, 8, 8, 8, 8]
    assert not grams.out_gram[0, 16:24].any()
    assert float(adapter_gram(grams)[0, 2, 2]) == 0.0


@pytest.mark.parametrize("scale", [1e-22, 1e18])
def test_sizes_far_from_one_lose_nothing(scale):
    stack = large_stack()
    scaled = dataclasses.replace(stack, out_stack=stack.out_stack * scale)
    one, other = singular_grams(stack), singular_grams(scaled)
    assert other.out_gram.abs().numpy() == pytest.approx(one.out_gram.abs().numpy(), abs=FLOAT32_GRAM)
    assert (other.values / scale).numpy() == pytest.approx(one.values.numpy(), rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_module_and_adapter(bad):
    stack = large_stack(m=2)
    columns = stack.in_stack.clone()
    columns[1, 17, 20] = bad
    with pytest.raises(NumericalError, match=r"(?s)NaN or infinity.*layers\.1\.up_proj, adapter 2"):
        singular_grams(dataclasses.replace(stack, in_stack=columns))


def test_signs_do_not_follow_the_gauge():
    """Turning an adapter's factors leaves every inner product as it is, sign included; also where few rows are used."""
    stack = rough_stack((3, 1, 4), d_out=900)
    sparse = torch.zeros_like(stack.out_stack)
    sparse[:, 1::3] = stack.out_stack[:, 1::3]
    turn = torch.block_diag(*(torch.linalg.qr(torch.randn(r, r, dtype=torch.float64))[0] for r in stack.ranks))
    for out in (stack.out_stack, sparse):
        plain = singular_grams(dataclasses.replace(stack, out_stack=out))
        turned = singular_grams(dataclasses.replace(stack, out_stack=out @ turn, in_stack=stack.in_stack @ turn))
        assert turned.out_gram.numpy() == pytest.approx(plain.out_gram.numpy(), abs=1e-10)


def in_one_space(stack: ModuleStack) -> ModuleStack:
    """The same with all columns of the out side made of the first four."""
    mixture = torch.randn(4, stack.total_rank, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return dataclasses.replace(stack, out_stack=stack.out_stack[:, :, :4] @ mixture)


@pytest.mark.parametrize(
    "stack", [rough_stack((3, 2, 4), m=2), rough_stack((2, 0, 3)), in_one_space(rough_stack((3, 2, 4)))]
)
def test_a_cp_model_in_own_axes_is_that_of_the_joint_bases(stack):
    """Also where adapters are so alike that their inner products have no Cholesky factor."""
    one, other = (
        cp_als(found, 4, n_starts=0, max_iter=10)
        for found in (compress_stack(stack), in_own_axes(stack.names, singular_grams(stack)))
    )
    # Ten sweeps from starts that are equal up to rounding.
    assert other.relative_error.numpy() == pytest.approx(one.relative_error.numpy(), abs=1e-7)
    assert other.factors.weights.numpy() == pytest.approx(one.factors.weights.numpy(), rel=1e-5, abs=1e-7)


def test_bounds_are_those_of_the_compressed_stack():
    stack = rough_stack((3, 2, 4), m=2)
    grams, bounds = singular_grams(stack), cp_bounds(compress_stack(stack))
    ranks = [1, 2, 5, 9, 20]
    reached, at_most = fit_bounds(grams, adapter_gram(grams), ranks)
    for place, rank in enumerate(ranks):
        low, high = bounds.relative_errors(rank)
        # Roots of sums of squares that nearly cancel.
        assert (1 - at_most[:, place]).numpy() == pytest.approx(low.numpy(), abs=1e-7)
        assert (1 - reached[:, place]).numpy() == pytest.approx(high.numpy(), abs=1e-7)
