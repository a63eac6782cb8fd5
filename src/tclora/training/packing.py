"""One forward pass of the rows of several adapters.

In: the rows of each adapter's batch. Out: `Chunk`s, which depend on their own adapter alone, joined to passes within a
budget of tokens, and each pass as tensors. Packed, a pass is all its rows end to end, without padding and with
positions that start anew; for a model that cannot be packed it is a rectangle padded on the right. The last token of a
row is left out: nothing is predicted from it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.models import Tokens
from tclora.shapes import Bool, Float, Int
from tclora.training.grouped_lora import Span
from tclora.training.plan import split_rows

__all__ = ["Chunk", "PassTensors", "cut_batch", "join_chunks", "pass_tensors"]

_PASS_COST = {"cpu": 128, "cuda": 4096}
"""What a pass costs on top of its tokens, in tokens."""
_MAX_WASTE = 1.25
"""Padded chunks share a pass while it has no more than this times the tokens that they have apart."""


@dataclass(frozen=True)
class Chunk:
    """Rows of one adapter that are never parted, longest first, and what their dropout is drawn from."""

    member: int
    rows: tuple[Tokens, ...]
    n_scored_in_step: int
    """Response tokens of the adapter's whole batch, by which its loss is divided."""
    key: tuple[int, ...] | None = None

    @property
    def width(self) -> int:
        return len(self.rows[0].ids) - 1

    def n_tokens(self, packed: bool) -> int:
        return sum(len(row.ids) - 1 for row in self.rows) if packed else len(self.rows) * self.width


@dataclass(frozen=True)
class PassTensors:
    """A pass: token ids, where they are scored against which targets, and who owns which rows."""

    ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"] | None
    scored: Bool[Tensor, "rows length"]
    targets: Int[Tensor, " n_scored"]
    loss_weights: Float[Tensor, " n_scored"]
    """1 over the number of response tokens of the adapter's batch: the weighted sum is the sum of mean losses."""
    lengths: tuple[int, ...] | None
    """Tokens of each packed row; None where the pass is padded."""
    spans: tuple[Span, ...]
    scored_spans: tuple[Span, ...]


def cut_batch(
    rows: Sequence[Tokens], *, packed: bool, max_rows: int | None, max_tokens: int, device: str
) -> list[tuple[Tokens, ...]]:
    """Part a batch, longest row first, into what one pass can hold; a single row may exceed `max_tokens`."""
    if not packed:
        cuts = split_rows(
            [len(row.ids) - 1 for row in rows],
            max_rows=max_rows or len(rows),
            max_tokens=max_tokens,
            pass_cost=_PASS_COST["cuda" if device == "cuda" else "cpu"],
        )
        return [tuple(rows[cut]) for cut in cuts]
    parts: list[list[Tokens]] = []
    room = 0
    for row in rows:
        if len(row.ids) - 1 > room or (max_rows is not None and len(parts[-1]) == max_rows):
            parts.append([])
            room = max_tokens
        parts[-1].append(row)
        room -= len(row.ids) - 1
    return [tuple(part) for part in parts]


def join_chunks(chunks: Sequence[Chunk], *, packed: bool, max_tokens: int) -> list[list[Chunk]]:
    """Passes of at most `max_tokens` tokens, padding included, unless one chunk has more; largest chunks first."""
    passes: list[list[Chunk]] = []
    size = (lambda chunk: chunk.n_tokens(True)) if packed else (lambda chunk: chunk.width)
    for chunk in sorted(chunks, key=lambda chunk: -size(chunk)):
        home = next((one for one in passes if _fits([*one, chunk], packed, max_tokens)), None)
        if home is None:
            passes.append([chunk])
        else:
            home.append(chunk)
    return [sorted(one, key=lambda chunk: chunk.member) for one in passes]


def _fits(chunks: Sequence[Chunk], packed: bool, max_tokens: int) -> bool:
    apart = sum(chunk.n_tokens(packed) for chunk in chunks)
    if packed:
        return apart <= max_tokens
    together = sum(len(chunk.rows) for chunk in chunks) * max(chunk.width for chunk in chunks)
    return together <= max_tokens and together <= _MAX_WASTE * apart


def pass_tensors(chunks: Sequence[Chunk], *, packed: bool, device: torch.device) -> PassTensors:
    """Lay the chunks out in their order."""
    rows = [row for chunk in chunks for row in chunk.rows]
    lengths = [len(row.ids) - 1 for row in rows]
    width = max(lengths)
    inputs, targets, scored = (_laid([part(row) for row in rows], width, packed) for part in (_inputs, _next, _scored))
    scored = scored.bool()
    counts = [[row.n_scored for row in chunk.rows] for chunk in chunks]
    weights = torch.cat([torch.full((sum(n),), 1 / c.n_scored_in_step) for n, c in zip(counts, chunks, strict=True)])
    return PassTensors(
        ids=inputs.to(device),
        positions=_laid([list(range(length)) for length in lengths], width, True).to(device) if packed else None,
        scored=scored.to(device),
        targets=targets[scored].to(device),
        loss_weights=weights.to(device),
        lengths=tuple(lengths) if packed else None,
        spans=_spans(chunks, [chunk.n_tokens(True) if packed else len(chunk.rows) * width for chunk in chunks]),
        scored_spans=_spans(chunks, [sum(n) for n in counts]),
    )


def _inputs(row: Tokens) -> Sequence[int]:
    return row.ids[:-1]


def _next(row: Tokens) -> Sequence[int]:
    return row.ids[1:]


def _scored(row: Tokens) -> Sequence[int]:
    # A first token has nothing before it to be predicted from.
    n_unscored = len(row.ids) - 1 - row.n_scored
    return [0] * n_unscored + [1] * row.n_scored


def _laid(rows: Sequence[Sequence[int]], width: int, packed: bool) -> Int[Tensor, "rows length"]:
    """Rows end to end, or padded with 0 on the right, where no scored position sees it."""
    if packed:
        return torch.tensor([list(itertools.chain.from_iterable(rows))])
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def _spans(chunks: Sequence[Chunk], sizes: Sequence[int]) -> tuple[Span, ...]:
    ends = list(itertools.accumulate(sizes))
    return tuple(
        Span(chunk.member, end - size, end, chunk.key) for chunk, size, end in zip(chunks, sizes, ends, strict=True)
    )
