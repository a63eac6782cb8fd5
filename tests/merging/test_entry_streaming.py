"""What the entry-wise methods stand on: exact order statistics, tiles, masks laid over rows, truncation by reading."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from entry_oracle import dense_deltas, far, random_stack, uniform
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.merging import MERGE_METHODS, parse_params
from tclora.merging.entries import (
    Election,
    EntryRule,
    TiledMatrix,
    best_of_rank,
    enter_space,
    kept_count,
    mask_generator,
    merged_matrix,
    order_magnitudes,
    row_ranks,
)
from tclora.merging.entries.tiled import _iterated, sketch_width

RULES = {
    "largest": EntryRule("largest", (0.3, 0.5, 1.0), election=Election()),
    "band": EntryRule("band", (0.3, 0.5, 0.9), gamma=0.1),
    "random": EntryRule("random", (0.3, 0.5, 1.0), rescale="inverse"),
    "random l1": EntryRule("random", (0.3, 0.5, 1.0), rescale="l1", election=Election(convention="authors")),
    "ranked": EntryRule("ranked", (0.3, 0.5, 1.0), epsilon=0.2, rescale="inverse", election=Election()),
}
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


# Order statistics


@dataclass(frozen=True)
class Given:
    """Entries as they stand, in tiles of a few."""

    entries: torch.Tensor
    step: int

    @property
    def n(self) -> int:
        return len(self.entries)

    def tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, self.entries.shape[1], self.step):
            yield start, self.entries[:, start : start + self.step].clone()


values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 2.0**-1022, 1e-300, 1e300]),
    st.floats(-1e6, 1e6, allow_subnormal=False),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(values, min_size=7, max_size=7), min_size=1, max_size=3), data=st.data())
def test_order_statistics_are_those_of_a_sort(rows, data):
    """With ties, zeros and every depth of division: nothing is collected before `collected` entries are left."""
    entries = torch.tensor(rows, dtype=torch.float64)
    places = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=2), min_size=len(rows), max_size=len(rows)))
    )
    collected = data.draw(st.sampled_from([0, 1, 3, 1000]))
    found = order_magnitudes(Given(entries, step=data.draw(st.integers(1, 7))), places, collected=collected)
    wanted = np.sort(np.abs(entries.numpy()), axis=1)
    for i, k in np.ndindex(*places.shape):
        assert float(found[i, k]) == wanted[i, places[i, k]]


def test_neighbors_in_the_last_bit_are_told_apart():
    close = 1 + torch.arange(50, dtype=torch.float64) * 2.0**-52
    shuffled = close[torch.randperm(50, generator=torch.Generator().manual_seed(0))][None]
    found = order_magnitudes(Given(shuffled, 8), torch.arange(50)[None], collected=0)
    assert torch.equal(found[0], close)


@pytest.mark.parametrize("density", [1e-9, 0.01, 0.2, 0.5, 0.999, 1.0])
def test_a_bound_keeps_as_many_entries_as_the_density_says(density):
    stack = random_stack(31, 17, (2, 3), seed=1)
    rule = EntryRule("largest", (density, density))
    for i, weights in enumerate(([1.0, 0.0], [0.0, 1.0])):
        whole = merged_matrix(enter_space(stack, "dense").source(0), torch.tensor(weights).double(), rule).dense()
        assert int((whole != 0).sum()) == kept_count(density, 31 * 17), i


# Tiles


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_height_of_the_tiles_does_not_matter(name):
    source = enter_space(random_stack(37, 11, (2, 3, 1), seed=2), "dense").source(0)
    whole = merged_matrix(source, WEIGHTS, RULES[name]).dense()
    for tile_entries in (1, 3 * 11 * 4, 3 * 11 * 36):
        again = merged_matrix(replace(source, tile_entries=tile_entries), WEIGHTS, RULES[name]).dense()
        # Products of other heights may round otherwise; a mask that moved would change whole entries.
        assert float((again - whole).abs().max() / whole.abs().max()) < 1e-13


def test_tiles_hold_the_deltas_and_stay_small():
    stack = random_stack(100, 64, (3, 0, 2), seed=3)
    source = replace(enter_space(stack, "dense").source(0), tile_entries=3 * 64 * 7)
    parts = [(rows, tile.clone()) for rows, tile in source.tiles()]
    assert max(tile.shape[1] for _, tile in parts) == 7
    found = torch.cat([tile for _, tile in parts], dim=1)
    assert all(far(found[i], delta) < 1e-14 for i, delta in enumerate(dense_deltas(stack)) if delta.any())
    assert not found[1].any()


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_reading_gives_the_same_bits(name):
    source = enter_space(random_stack(37, 11, (2, 3, 1), seed=2), "dense").source(0)
    matrix = merged_matrix(source, WEIGHTS, RULES[name])
    assert torch.equal(matrix.dense(), matrix.dense())


# Masks


def test_random_numbers_are_laid_over_the_rows_of_a_module():
    whole = uniform((10, 7), seed=5, module="layers.1.up", adapter=2)
    part = mask_generator(5, "layers.1.up", 2, skip=3 * 7).random((4, 7))
    assert np.array_equal(part, whole[3:7])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), cols=st.integers(1, 40), seed=st.integers(0, 99))
def test_ranks_in_a_row_are_those_of_a_stable_sort(rows, cols, seed):
    generator = np.random.default_rng(seed)
    tile = generator.standard_normal((rows, cols))
    tile[generator.random((rows, cols)) < 0.3] = 0.5
    wanted = np.argsort(np.argsort(np.abs(tile), axis=1, kind="stable"), axis=1, kind="stable")
    assert np.array_equal(row_ranks(torch.from_numpy(tile)).numpy(), wanted)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_a_random_mask_keeps_its_share(density):
    source = enter_space(random_stack(200, 150, (3,), seed=4), "dense").source(0)
    whole = merged_matrix(source, torch.ones(1).double(), EntryRule("random", (density,))).dense()
    share = float((whole != 0).double().mean())
    # Five deviations of a share of 30,000 draws.
    assert abs(share - density) < 5 * (density * (1 - density) / 30_000) ** 0.5


# Truncation


def planted(rows: int, cols: int, spectrum: list[float], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.linalg.qr(torch.randn(d, len(spectrum), generator=generator).double())[0] for d in (rows, cols)]
    return (sides[0] * torch.tensor(spectrum, dtype=torch.float64)) @ sides[1].mT


def tiled(whole: torch.Tensor, height: int = 64) -> TiledMatrix:
    def read():
        for start in range(0, whole.shape[0], height):
            rows = slice(start, min(start + height, whole.shape[0]))
            yield rows, whole[rows].clone()

    return TiledMatrix((whole.shape[0], whole.shape[1]), whole.device, read)


def random_columns(cols: int):
    return lambda width: torch.randn(cols, width, generator=torch.Generator().manual_seed(9)).double()


def error_of(found, whole: torch.Tensor) -> float:
    return float((found.left @ found.right.mT - whole).norm() / whole.norm())


@pytest.mark.parametrize("shape", [(300, 310), (310, 300), (20, 400)])
def test_a_matrix_of_low_rank_comes_back(shape):
    whole = planted(shape[0], shape[1], [3.0, 1.0, 1e-3, 1e-5])
    found = best_of_rank(tiled(whole), 4, random_columns(shape[1]))
    # A large matrix is held in float32 while it is read.
    assert error_of(found, whole) < 1e-7
    assert found.size == pytest.approx(float(whole.norm()), rel=1e-7)


@pytest.mark.parametrize("rank", [3, 10])
@pytest.mark.parametrize("decay", [0.8, 0.98])
def test_the_truncation_is_within_a_per_cent_of_the_best(rank, decay):
    spectrum = [decay**k for k in range(300)]
    whole = planted(300, 320, spectrum)
    found = best_of_rank(tiled(whole), rank, random_columns(320))
    s = torch.tensor(spectrum).double()
    best = float(s[rank:].norm() / s.norm())
    assert best * (1 - 1e-6) < error_of(found, whole) < 1.01 * best
    assert found.relative_error == pytest.approx(error_of(found, whole), rel=1e-5)


def test_a_matrix_too_large_to_hold_is_read_anew_each_time():
    whole = planted(300, 320, [0.9**k for k in range(300)])
    readings = []

    def read():
        readings.append(1)
        yield from tiled(whole).read()

    matrix = TiledMatrix((300, 320), whole.device, read)
    assert matrix.held(limit=1000) is matrix
    found = _iterated(matrix, 5, random_columns(320)(sketch_width(5)))
    assert len(readings) > 3
    held = _iterated(matrix.held(), 5, random_columns(320)(sketch_width(5)))
    # Holding rounds to float32.
    assert float((found.left @ found.right.mT - held.left @ held.right.mT).norm() / whole.norm()) < 1e-6
    assert found.relative_error == pytest.approx(error_of(found, whole), rel=1e-9)


def test_a_rank_that_reaches_the_matrix_loses_nothing():
    whole = planted(300, 280, [0.99**k for k in range(280)])
    found = best_of_rank(tiled(whole), 280, random_columns(280))
    assert error_of(found, whole) < 1e-12
    assert found.relative_error == 0.0


@pytest.mark.parametrize("shape", [(300, 310), (30, 20)])
def test_a_matrix_of_zeros_has_no_error(shape):
    found = best_of_rank(tiled(torch.zeros(shape).double()), 4, random_columns(shape[1]))
    assert (found.relative_error, found.size, found.zeros) == (0.0, 0.0, 1.0)
    assert not (found.left @ found.right.mT).any()


def test_a_large_module_is_truncated_as_well_as_a_dense_svd():
    """Planted in full: the merged matrix of three adapters, of full rank, cut to 8 and to 24."""
    stack = random_stack(300, 280, (8, 8, 8), seed=6)
    whole = merged_matrix(enter_space(stack, "dense").source(0), WEIGHTS, RULES["largest"]).dense()
    s = torch.linalg.svdvals(whole)
    for rank in (8, 24):
        params = parse_params("ties", {"density": [0.3, 0.5, 1.0], "rank": rank})
        found = MERGE_METHODS["ties"](stack, params, WEIGHTS[None])
        best = float(s[rank:].norm() / s.norm())
        measured = float((found.delta.dense()[0] - whole).norm() / whole.norm())
        assert float(found.relative_error[0]) == pytest.approx(measured, rel=1e-5)
        assert best * (1 - 1e-6) < measured < 1.01 * best


def test_adapters_that_cancel_in_the_sum_are_still_found():
    """Two opposite adapters: their sum is zero, what a random mask leaves of it is not."""
    stack = random_stack(300, 280, (4,), seed=7)
    opposite = replace(
        stack,
        out_stack=torch.cat([stack.out_stack, -stack.out_stack], dim=2),
        in_stack=torch.cat([stack.in_stack, stack.in_stack], dim=2),
        ranks=(4, 4),
    )
    weights = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    found = MERGE_METHODS["dare"](opposite, parse_params("dare", {"density": 0.5, "rank": 8}), weights)
    source = enter_space(opposite, "dense").source(0)
    whole = merged_matrix(source, weights[0], EntryRule("random", (0.5, 0.5), rescale="inverse")).dense()
    s = torch.linalg.svdvals(whole)
    assert float(found.relative_error[0]) < 1.01 * float(s[8:].norm() / s.norm())
