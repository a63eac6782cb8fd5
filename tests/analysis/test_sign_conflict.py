"""Sign conflict against its definition entry by entry, and its samples."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from planted_overlap import EXACT, dense_deltas, rough_stack

from tclora.algebra import ModuleStack
from tclora.analysis import sign_conflict, signs


def dense_signs(deltas: list[np.ndarray]) -> dict[str, float]:
    """The definitions, entry by entry."""
    entries = [list(column) for column in zip(*(delta.ravel() for delta in deltas), strict=True)]
    opposed = [min(e) < 0 < max(e) for e in entries]
    mass = [sum(map(abs, e)) for e in entries]
    return {
        "share": sum(opposed) / sum(m > 0 for m in mass),
        "weighted": sum(m for m, o in zip(mass, opposed, strict=True) if o) / sum(mass),
        "cancelled": 1 - sum(abs(sum(e)) for e in entries) / sum(mass),
    }


def test_sign_conflict_is_its_dense_definition():
    stack = rough_stack((3, 1, 0, 4))
    found, deltas = sign_conflict(stack), dense_deltas(stack)
    for name, wanted in dense_signs(deltas).items():
        assert float(getattr(found, name)) == pytest.approx(wanted, abs=EXACT)
    for place, (i, k) in enumerate(combinations(range(4), 2)):
        x, y = deltas[i], deltas[k]
        both, opposed = (x != 0) & (y != 0), x * y < 0
        if not both.any():
            assert np.isnan(float(found.pair_share[0, place]))
            continue
        size = np.abs(x) + np.abs(y)
        assert float(found.pair_share[0, place]) == pytest.approx(opposed.sum() / both.sum(), abs=EXACT)
        assert float(found.pair_weighted[0, place]) == pytest.approx(size[opposed].sum() / size[both].sum(), abs=EXACT)


def test_sign_conflict_of_equal_and_opposite_adapters():
    one = rough_stack((2,))
    for sign, wanted in ((1.0, 0.0), (-1.0, 1.0)):
        pair = ModuleStack(
            one.names, torch.cat([one.out_stack, sign * one.out_stack], 2), one.in_stack.repeat(1, 1, 2), (2, 2)
        )
        found = sign_conflict(pair)
        for share in dataclasses.astuple(found):
            assert float(share) == pytest.approx(wanted, abs=EXACT)


def test_sampled_signs_are_near_those_of_all_entries():
    stack = rough_stack((3, 2, 4), d_out=300, d_in=280)
    whole, sampled = sign_conflict(stack, grid=300), sign_conflict(stack, grid=64)
    # 4,096 entries in rows and columns of rank 9: a few hundred independent ones, so a spread of about 0.02.
    assert float(sampled.weighted) == pytest.approx(float(whole.weighted), abs=0.08)
    assert float(sampled.cancelled) == pytest.approx(float(whole.cancelled), abs=0.08)
    assert float(sampled.share) != float(whole.share)


def test_samples_belong_to_the_seed_and_the_modules_name():
    stack = rough_stack((3, 2), d_out=60, d_in=60)
    first, again = (sign_conflict(stack, grid=16) for _ in range(2))
    assert torch.equal(first.cancelled, again.cancelled)
    renamed = dataclasses.replace(stack, names=("other",))
    assert not torch.equal(first.cancelled, sign_conflict(renamed, grid=16).cancelled)
    assert not torch.equal(first.cancelled, sign_conflict(stack, seed=1, grid=16).cancelled)


def test_float32_stacks_and_chunks_of_modules_change_no_share(monkeypatch):
    stack = rough_stack((3, 2, 4), m=5, d_out=60, d_in=60)
    single = dataclasses.replace(stack, out_stack=stack.out_stack.float(), in_stack=stack.in_stack.float())
    whole = sign_conflict(single)
    monkeypatch.setattr(signs, "_CHUNK_NUMBERS", 1)
    for name in ("share", "weighted", "cancelled", "pair_share", "pair_weighted"):
        assert torch.equal(getattr(sign_conflict(single), name), getattr(whole, name))
        # 3,600 entries, of which rounding may turn the sign of one that nearly vanishes.
        assert getattr(whole, name).numpy() == pytest.approx(getattr(sign_conflict(stack), name).numpy(), abs=3e-4)


def test_sizes_near_the_ends_of_float32_are_compared():
    stack = rough_stack((2, 3), d_out=40, d_in=40)
    plain = sign_conflict(stack)
    for size in (1e-18, 1e18):
        big = dataclasses.replace(
            stack, out_stack=(size * stack.out_stack).float(), in_stack=(size * stack.in_stack).float()
        )
        assert float(sign_conflict(big).pair_weighted) == pytest.approx(float(plain.pair_weighted), abs=1e-5)
