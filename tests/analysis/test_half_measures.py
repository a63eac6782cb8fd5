"""A stack in half precision is measured as the float32 stack of the same numbers, to the last bit."""

import dataclasses

import pytest
import torch
from planted_overlap import rough_stack

from tclora.algebra import ModuleStack, compress_stack, cp_als
from tclora.analysis.gram_path import singular_grams
from tclora.analysis.signs import sign_conflict


def half_and_single(dtype: torch.dtype, sizes: tuple[int, int]) -> tuple[ModuleStack, ModuleStack]:
    stack = rough_stack((8,) * 8, d_out=sizes[0], d_in=sizes[1], m=2)
    half = dataclasses.replace(stack, out_stack=stack.out_stack.to(dtype), in_stack=stack.in_stack.to(dtype))
    return half, dataclasses.replace(half, out_stack=half.out_stack.float(), in_stack=half.in_stack.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(20, 90), (4608, 4200)], ids=["small", "large"])
def test_measures_are_those_of_the_numbers(dtype, sizes):
    half, single = half_and_single(dtype, sizes)
    for measure in (singular_grams, sign_conflict):
        for one, other in zip(vars(measure(half)).values(), vars(measure(single)).values(), strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(20, 90), (4608, 4200)], ids=["small", "large"])
def test_the_joint_model_is_that_of_the_numbers(dtype, sizes):
    half, single = (compress_stack(stack) for stack in half_and_single(dtype, sizes))
    assert torch.equal(half.out_blocks, single.out_blocks)
    fits = [cp_als(compressed, 4, n_starts=0, max_iter=20) for compressed in (half, single)]
    lifted = [
        compressed.out_side.lift(fit.factors.out_factor) for compressed, fit in zip((half, single), fits, strict=True)
    ]
    assert torch.equal(*lifted)
