"""Compression is exact: bases orthonormal, every delta and norm kept, whatever the shapes, scales and gauges."""

import pytest
import torch
from algebra_stacks import KINDS, make_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.algebra import ModuleStack, compress_stack, lift
from tclora.errors import NumericalError, ShapeError

# A few hundred roundings of float64: QR, SVD and two products, each backward stable, at up to 40 columns.
EXACT = 1e-13


def worst_delta_error(stack, compressed):
    """The largest error of any delta relative to its own norm; zero deltas must come out as zero."""
    errors = [0.0]
    for i in range(stack.n):
        want = stack.delta(i).double()
        got = compressed.out_basis @ compressed.core[..., i] @ compressed.in_basis.mT
        for j in range(stack.m):
            size = want[j].norm()
            errors.append(float((got[j] - want[j]).norm() / size) if size > 0 else float(got[j].norm()))
    return max(errors)


def test_the_measure_of_error_sees_an_error():
    stack = make_stack("mixed")
    compressed = compress_stack(stack)
    compressed.core[0, 0, 0, 2] += 1e-6
    assert worst_delta_error(stack, compressed) > 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_every_delta_comes_back(kind):
    stack = make_stack(kind, m=3, ranks=(4, 2, 4, 0, 3))
    assert worst_delta_error(stack, compress_stack(stack)) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_bases_are_orthonormal(kind):
    compressed = compress_stack(make_stack(kind))
    for basis in (compressed.out_basis, compressed.in_basis):
        eye = torch.eye(basis.shape[2], dtype=basis.dtype)
        assert float((basis.mT @ basis - eye).abs().max()) < EXACT


def test_norms_are_kept():
    stack = make_stack("mixed", m=2)
    dense = torch.stack([stack.delta(i) for i in range(stack.n)], dim=3)
    torch.testing.assert_close(compress_stack(stack).core.norm(), dense.norm(), rtol=EXACT, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_any_shape(d_out, d_in, ranks, seed):
    generator = torch.Generator().manual_seed(seed)
    out, into = (torch.randn(2, d, sum(ranks), generator=generator, dtype=torch.float64) for d in (d_out, d_in))
    stack = ModuleStack(("x", "y"), out, into, tuple(ranks))
    compressed = compress_stack(stack)
    assert worst_delta_error(stack, compressed) < EXACT
    assert int(compressed.out_rank.max()) <= min(d_out, max(1, sum(ranks)))


def test_split_of_scale_between_the_factors_loses_nothing():
    stack = make_stack("private", ranks=(4, 4, 4))
    gauge = torch.tensor([1e-9, 1.0, 1e9], dtype=torch.float64).repeat_interleave(4)
    skewed = ModuleStack(stack.names, stack.out_stack * gauge, stack.in_stack / gauge, stack.ranks)
    assert worst_delta_error(skewed, compress_stack(skewed)) < EXACT


def test_mixing_the_rank_axis_changes_no_norm_of_the_core():
    stack = make_stack("private", ranks=(4, 4))
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = torch.block_diag(mix, mix)
    mixed = ModuleStack(stack.names, stack.out_stack @ both, stack.in_stack @ both.inverse().T, stack.ranks)
    first, second = (compress_stack(s).core.flatten(0, 2).T for s in (stack, mixed))
    # The inverse of a random 4 x 4 matrix costs two digits.
    torch.testing.assert_close(first @ first.T, second @ second.T, rtol=1e-11, atol=1e-12)


def test_a_very_small_adapter_keeps_its_own_digits():
    stack = make_stack("private", ranks=(4, 4))
    size = torch.tensor([1.0, 1e-20], dtype=torch.float64).repeat_interleave(4)
    small = ModuleStack(stack.names, stack.out_stack * size, stack.in_stack, stack.ranks)
    assert worst_delta_error(small, compress_stack(small)) < EXACT


def test_near_equal_float32_adapters_keep_what_sets_them_apart():
    base = make_stack("private", ranks=(4,), dtype=torch.float32)
    nudge = make_stack("private", ranks=(4,), dtype=torch.float32, seed=5)
    out = torch.cat([base.out_stack, base.out_stack + 1e-5 * nudge.out_stack], dim=2)
    stack = ModuleStack(base.names, out, base.in_stack.repeat(1, 1, 2), (4, 4))
    core = compress_stack(stack).core
    wide = stack.out_stack.double()
    apart = (wide[:, :, 4:] - wide[:, :, :4]) @ base.in_stack.double().mT
    torch.testing.assert_close((core[..., 1] - core[..., 0]).norm(), apart.norm(), rtol=1e-8, atol=0)


def test_equal_adapters_need_only_one_adapters_rank():
    one = make_stack("private", ranks=(4,))
    stack = ModuleStack(one.names, one.out_stack.repeat(1, 1, 5), one.in_stack.repeat(1, 1, 5), (4,) * 5)
    assert compress_stack(stack).core.shape == (1, 4, 4, 5)


def test_ranks_are_counted_per_module_and_unused_columns_are_zero():
    stack = make_stack("private", m=2, ranks=(3, 3))
    out = stack.out_stack.clone()
    out[1, :, 3:] = out[1, :, :3]
    compressed = compress_stack(ModuleStack(stack.names, out, stack.in_stack, stack.ranks))
    assert compressed.out_rank.tolist() == [6, 3]
    assert not compressed.out_basis[1, :, 3:].any()
    assert not compressed.core[1, 3:].any()


def test_a_module_no_adapter_has_is_a_zero_core():
    empty = ModuleStack(("x",), torch.zeros(1, 5, 0), torch.zeros(1, 6, 0), (0, 0))
    compressed = compress_stack(empty)
    assert compressed.core.shape == (1, 1, 1, 2)
    assert not compressed.core.any()


def test_all_zero_factors_are_a_zero_core():
    compressed = compress_stack(ModuleStack(("x",), torch.zeros(1, 5, 4), torch.ones(1, 6, 4), (2, 2)))
    assert not compressed.core.any()


def test_a_module_has_the_same_bytes_in_any_batch():
    stack = make_stack("mixed", m=4)
    alone = ModuleStack(stack.names[2:3], stack.out_stack[2:3], stack.in_stack[2:3], stack.ranks)
    whole, single = compress_stack(stack), compress_stack(alone)
    assert torch.equal(whole.core[2:3], single.core)
    assert torch.equal(whole.out_basis[2:3], single.out_basis)


def test_inputs_are_left_alone():
    stack = make_stack("mixed")
    before = stack.out_stack.clone(), stack.in_stack.clone()
    compress_stack(stack)
    assert torch.equal(stack.out_stack, before[0])
    assert torch.equal(stack.in_stack, before[1])


def test_float32_keeps_float32_digits():
    stack = make_stack("mixed")
    compressed = compress_stack(stack, dtype=torch.float32)
    assert compressed.core.dtype == torch.float32
    assert worst_delta_error(stack, compressed) < 1e-5  # about 100 roundings of float32


def test_lift_of_one_adapters_core_is_its_delta():
    stack = make_stack("mixed", m=2)
    compressed = compress_stack(stack)
    eye = torch.eye(compressed.core.shape[2], dtype=torch.float64).expand(2, -1, -1)
    lifted = lift(compressed, compressed.core[..., 1], eye)
    torch.testing.assert_close(lifted.dense(), stack.delta(1), rtol=0, atol=EXACT)


def test_lift_refuses_factors_of_another_size():
    compressed = compress_stack(make_stack("mixed"))
    wrong = torch.zeros(1, compressed.core.shape[1] + 1, 3, dtype=torch.float64)
    with pytest.raises(ShapeError, match="do not fit the compressed stack"):
        lift(compressed, wrong, wrong)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite_by_module_and_adapter(bad):
    stack = make_stack("mixed", m=3, ranks=(2, 0, 3))
    into = stack.in_stack.clone()
    into[1, 4, 3] = bad
    with pytest.raises(NumericalError, match=r"layer\.1, adapter 2"):
        compress_stack(ModuleStack(stack.names, stack.out_stack, into, stack.ranks))


def test_refuses_a_product_that_overflows():
    stack = make_stack("mixed", ranks=(2, 2))
    size = torch.tensor([1.0, 1e200], dtype=torch.float64).repeat_interleave(2)
    with pytest.raises(NumericalError, match=r"overflows\n.*layer\.0, adapter 1"):
        compress_stack(ModuleStack(stack.names, stack.out_stack * size, stack.in_stack * size, stack.ranks))
