"""What a stack and a low-rank delta are, and what they refuse."""

import pytest
import torch

from tclora.algebra import LowRankDelta, ModuleStack
from tclora.errors import ShapeError


def stack_of(names=("x", "y"), out=(2, 5, 3), into=(2, 7, 3), ranks=(2, 0, 1), **kinds):
    return ModuleStack(names, torch.ones(out, **kinds), torch.ones(into), ranks)


def test_counts():
    stack = stack_of()
    assert (stack.m, stack.n, stack.total_rank) == (2, 3, 3)


def test_blocks_follow_the_ranks_and_an_absent_adapter_has_an_empty_one():
    assert stack_of().blocks() == [slice(0, 2), slice(2, 2), slice(2, 3)]


def test_delta_is_the_product_of_the_adapters_columns():
    generator = torch.Generator().manual_seed(0)
    out, into = torch.randn(1, 5, 3, generator=generator), torch.randn(1, 7, 3, generator=generator)
    stack = ModuleStack(("x",), out, into, (1, 2))
    expected = torch.einsum("op,ip->oi", out[0, :, 1:], into[0, :, 1:])
    torch.testing.assert_close(stack.delta(1)[0], expected)


def test_an_absent_adapter_has_a_zero_delta():
    assert not stack_of().delta(1).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ranks": (2, 2)}, r"ranks \(2, 2\), sum 4"),
        ({"ranks": (4, -1)}, "none negative"),
        ({"ranks": ()}, "do not add up"),
        ({"names": ("x",)}, r"1 names \(1 different\) for 2 modules"),
        ({"names": ("x", "x")}, r"2 names \(1 different\)"),
    ],
)
def test_refuses_what_does_not_agree(change, match):
    with pytest.raises(ShapeError, match=match):
        stack_of(**change)


def test_refuses_mixed_dtypes():
    with pytest.raises(ShapeError, match=r"float64 on cpu and .* float32 on cpu"):
        stack_of(dtype=torch.float64)


def test_low_rank_delta_is_its_product():
    b, a = torch.arange(6.0).view(1, 3, 2), torch.arange(8.0).view(1, 2, 4)
    torch.testing.assert_close(LowRankDelta(("x",), b, a).dense()[0], b[0] @ a[0])


def test_low_rank_delta_refuses_another_number_of_names():
    with pytest.raises(ShapeError, match="0 names"):
        LowRankDelta((), torch.ones(1, 3, 2), torch.ones(1, 2, 4))
