"""Low-rank tools against dense float64 linear algebra."""

import pytest
import torch

from tclora.algebra import (
    LowRankDelta,
    balance,
    numerical_rank,
    relative_distance,
    svd_of_product,
    truncate_core_sum,
)
from tclora.errors import ShapeError

EXACT = 1e-12  # products of a few dozen entries of order one, in float64


def factors(m=2, d_out=11, d_in=9, r=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((m, d_out, r), (m, r, d_in))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("r", [1, 4, 9, 15])
def test_svd_of_product_has_lapacks_singular_values(r):
    b, a = factors(r=r)
    want = torch.linalg.svdvals(b @ a)[:, : min(9, r)]
    torch.testing.assert_close(svd_of_product(b, a)[1], want, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("r", [1, 4, 15])
def test_svd_of_product_multiplies_back(r):
    b, a = factors(r=r)
    u, s, vh = svd_of_product(b, a)
    torch.testing.assert_close(u * s[:, None] @ vh, b @ a, rtol=EXACT, atol=EXACT)


def test_svd_of_product_has_orthonormal_vectors():
    u, _, vh = svd_of_product(*factors())
    eye = torch.eye(4, dtype=torch.float64).expand(2, -1, -1)
    torch.testing.assert_close(u.mT @ u, eye, rtol=0, atol=EXACT)
    torch.testing.assert_close(vh @ vh.mT, eye, rtol=0, atol=EXACT)


def test_signs_are_fixed_by_the_largest_entry():
    b, a = factors()
    u, _, vh = svd_of_product(b, a)
    flipped_u, _, flipped_vh = svd_of_product(-b, -a)
    torch.testing.assert_close(u, flipped_u, rtol=0, atol=EXACT)
    torch.testing.assert_close(vh, flipped_vh, rtol=0, atol=EXACT)
    assert (u.gather(1, u.abs().argmax(dim=1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("r", [4, 15])
def test_balance_keeps_the_product(r):
    b, a = factors(r=r)
    balanced_b, balanced_a = balance(b, a)
    assert balanced_b.shape == b.shape
    torch.testing.assert_close(balanced_b @ balanced_a, b @ a, rtol=EXACT, atol=EXACT)


def test_balance_makes_the_two_grams_equal_and_diagonal():
    b, a = balance(*factors())
    gram = b.mT @ b
    torch.testing.assert_close(gram, a @ a.mT, rtol=0, atol=EXACT * float(gram.max()))
    torch.testing.assert_close(gram, torch.diag_embed(gram.diagonal(dim1=1, dim2=2)), rtol=0, atol=EXACT * 100)


def test_balance_does_not_see_how_the_product_was_factored():
    b, a = factors()
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for got, want in zip(balance(b @ mix, mix.inverse() @ a), balance(b, a), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)  # the inverse costs two digits


@pytest.mark.parametrize("rank", [1, 3, 9, 12])
def test_truncation_has_the_error_of_eckart_and_young(rank):
    b, a = factors(r=9)
    matrix = b @ a
    out_small, in_small, error = truncate_core_sum(matrix, rank)
    s = torch.linalg.svdvals(matrix)
    want = s[:, rank:].norm(dim=1) / s.norm(dim=1)
    torch.testing.assert_close(error, want, rtol=EXACT, atol=EXACT)
    actual = (matrix - out_small @ in_small.mT).norm(dim=(1, 2)) / matrix.norm(dim=(1, 2))
    torch.testing.assert_close(actual, want, rtol=EXACT, atol=EXACT)


def test_truncation_gives_the_width_asked_for():
    out_small, in_small, _ = truncate_core_sum(torch.ones(2, 3, 4), 7)
    assert (out_small.shape, in_small.shape) == ((2, 3, 7), (2, 4, 7))


def test_truncation_of_zero_has_no_error():
    assert truncate_core_sum(torch.zeros(1, 3, 4), 2)[2].tolist() == [0.0]


def test_truncation_refuses_rank_zero():
    with pytest.raises(ShapeError, match="rank 0"):
        truncate_core_sum(torch.ones(1, 3, 4), 0)


def delta(b, a, names=("x", "y")):
    return LowRankDelta(names, b, a)


def test_distance_is_the_dense_one():
    (b1, a1), (b2, a2) = factors(), factors(r=3, seed=1)
    want = (b1 @ a1 - b2 @ a2).norm(dim=(1, 2)) / (b2 @ a2).norm(dim=(1, 2))
    torch.testing.assert_close(relative_distance(delta(b1, a1), delta(b2, a2)), want, rtol=EXACT, atol=0)


def test_distance_of_a_product_to_itself_in_another_gauge_is_rounding():
    b, a = factors()
    again = delta(*balance(b, a))
    # An expanded square could not go below the root of the rounding, 1e-8.
    assert float(relative_distance(delta(b, a), again).max()) < 1e-14


def test_a_small_distance_keeps_its_digits():
    b, a = factors()
    near = relative_distance(delta(b * (1 + 2.0**-40), a), delta(b, a))
    torch.testing.assert_close(near, torch.full_like(near, 2.0**-40), rtol=1e-3, atol=0)  # 1e-15 of 1e-12


def test_distance_of_zeros():
    zero, some = (torch.zeros(2, 11, 4), torch.zeros(2, 4, 9)), factors()
    assert relative_distance(delta(*zero), delta(*zero)).tolist() == [0, 0]
    assert relative_distance(delta(*some), delta(*zero)).tolist() == [float("inf")] * 2


def test_distance_refuses_other_modules():
    with pytest.raises(ShapeError, match="different modules"):
        relative_distance(delta(*factors()), delta(*factors(), names=("x", "z")))


def test_numerical_rank_counts_by_matrix():
    values = torch.tensor([[2.0, 1.0, 1e-9], [1e-9, 1e-10, 1e-30], [0.0, 0.0, 0.0]])
    assert numerical_rank(values, tol=1e-6).tolist() == [2, 2, 0]
