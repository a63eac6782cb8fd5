"""Log-likelihoods of continuations, with everything that prompts have in common read once.

In: groups of token rows, as the choices of one question. Out: for each row its summed log-likelihood, its scored tokens
and whether greedy decoding would give them. Three levels are read apart: a prefix that all groups share (few-shot
examples) once, a trunk that the rows of a group share (the question) once a group, and the branches (the choices).
Each level costs a pass, so a level that would save little is left out; without any, rows are read whole. Refused:
rows without a token to score.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tclora.errors import ConfigError, DataError
from tclora.models.base import Base
from tclora.models.reading import Past, read_prefix, read_rows, target_scores
from tclora.models.scoring import batches_by_length, collate, scored_logits
from tclora.models.tokens import Tokens

__all__ = ["RowScore", "common_length", "score_continuations", "shares_past", "useful_prefix"]

RowScore = tuple[float, int, bool]
"""Summed log-likelihood in nats, number of scored tokens, whether each of them is the likeliest."""

# A prefix or trunk must be this long, and spare this many tokens in all, to be worth a pass of its own.
_MIN_PREFIX, _MIN_SPARED = 16, 512
_MIN_TRUNK_SPARED = 8


@torch.inference_mode()
def score_continuations(
    base: Base, groups: Sequence[Sequence[Tokens]], *, batch_size: int, share: bool = True
) -> Iterator[tuple[list[int], list[list[RowScore]]]]:
    """Score every row of every group, a batch of whole groups at a time, longest first.

    Args:
        batch_size: rows in one pass of the model.
        share: read what rows have in common once; see `shares_past` for models that do not allow it.

    Yields:
        the indices of the groups that are done, and the scores of their rows, in order.

    Raises:
        DataError: a row has no token to score.
        ConfigError: `batch_size` is below 1.
    """
    _check(groups, batch_size)
    prefix = useful_prefix([row for group in groups for row in group]) if share else 0
    past = read_prefix(base, groups[0][0].ids[:prefix]) if prefix else None
    trunks = [_trunk(group, prefix) if share else prefix for group in groups]
    branching = [index for index, trunk in enumerate(trunks) if trunk > prefix]
    for part in batches_by_length([trunks[index] - prefix for index in branching], batch_size, base.device):
        picked = [branching[place] for place in part]
        ends = [trunks[index] for index in picked]
        yield picked, _branching(base, past, [groups[index] for index in picked], ends, prefix, batch_size)
    flat = [index for index, trunk in enumerate(trunks) if trunk == prefix]
    for picked in _whole_groups(flat, groups, batch_size):
        yield picked, _flat(base, past, [groups[index] for index in picked], prefix, batch_size)


def useful_prefix(rows: Sequence[Tokens]) -> int:
    """How many first tokens all rows share, where reading them once is worth a pass; else 0."""
    # The last prompt token is read with what follows it, for it predicts the first scored token.
    length = min(common_length([row.ids for row in rows]), min(row.n_prompt for row in rows) - 1)
    return length if length >= _MIN_PREFIX and length * (len(rows) - 1) >= _MIN_SPARED else 0


def common_length(rows: Sequence[tuple[int, ...]]) -> int:
    """The length of the longest common beginning of all rows."""
    # Whatever the first and the last in dictionary order share, those between them share.
    first, last = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


@torch.inference_mode()
def shares_past(base: Base, longest: int) -> bool:
    """Say whether rows of up to `longest` tokens may share what they begin with on this model.

    Attention that sees only a window counts padding as distance, so it is exact within the window alone. Everything
    else (states that are not key-values, positions a model makes for itself) is settled by trying it.
    """
    config = base.model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and longest > window:
        return False
    vocabulary, room = config.vocab_size, min(base.max_length, 48)
    if room < 2 * _MIN_PREFIX:
        return False
    ids = [(7 * i * i + 3 * i + 1) % vocabulary for i in range(room)]
    groups = [
        [Tokens((*ids[: size - 3], *tail), size - 3) for tail in ((ids[5], ids[1]), (ids[2], ids[8], ids[4]))]
        for size in (room - 8, room)
    ]
    try:
        past = read_prefix(base, ids[:_MIN_PREFIX])
        ends = [_trunk(group, _MIN_PREFIX) for group in groups]
        shared = _branching(base, past, groups, ends, _MIN_PREFIX, 4)
    except Exception:  # an architecture fails in its own way where it keeps no key-values
        return False
    alone = _flat(base, None, groups, 0, 1)
    found, expected = (torch.tensor([[row[0] for row in group] for group in scores]) for scores in (shared, alone))
    # Half precision rounds each of some tens of layers; a wrong mask or position is off by far more.
    tolerance = 1e-3 if next(base.model.parameters()).dtype in (torch.float32, torch.float64) else 5e-2
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=tolerance))


def _check(groups: Sequence[Sequence[Tokens]], batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError("a batch needs rows", where="batch_size", found=batch_size, expected="1 or more")
    for index, group in enumerate(groups):
        empty = next((place for place, row in enumerate(group) if row.n_scored < 1), None)
        if empty is not None or not group:
            raise DataError(
                "a continuation has no token to score",
                where=f"group {index}, continuation {empty or 0}",
                found="no text" if group else "no continuations",
                do="leave empty continuations out",
            )


def _trunk(group: Sequence[Tokens], prefix: int) -> int:
    """Where the rows of a group part; `prefix` where reading the trunk apart would save nothing."""
    end = min(common_length([row.ids for row in group]), min(row.n_prompt for row in group))
    return end if (end - prefix) * (len(group) - 1) >= _MIN_TRUNK_SPARED else prefix


def _whole_groups(chosen: Sequence[int], groups: Sequence[Sequence[Tokens]], batch_size: int) -> Iterator[list[int]]:
    """Groups by length, together as many rows as a pass has; a group is never split."""
    order = sorted(chosen, key=lambda index: -max(len(row.ids) for row in groups[index]))
    picked: list[int] = []
    for index in order:
        if picked and sum(len(groups[i]) for i in picked) + len(groups[index]) > batch_size:
            yield picked
            picked = []
        picked.append(index)
    if picked:
        yield picked


def _flat(
    base: Base, past: Past | None, groups: Sequence[Sequence[Tokens]], prefix: int, batch_size: int
) -> list[list[RowScore]]:
    """Rows of groups without a trunk, each read from the prefix on."""
    rows = [row for group in groups for row in group]
    found: dict[int, RowScore] = {}
    for part in batches_by_length([len(row.ids) - prefix for row in rows], batch_size, base.device):
        picked = [rows[place] for place in part]
        if past is None:
            scores = _whole_rows(base, picked)
        else:
            scores = _read_on(base, past.rows([0] * len(picked)), picked, [prefix] * len(picked))
        found |= dict(zip(part, scores, strict=True))
    return _regrouped([found[place] for place in range(len(rows))], groups)


def _branching(
    base: Base,
    past: Past | None,
    groups: Sequence[Sequence[Tokens]],
    trunks: Sequence[int],
    prefix: int,
    batch_size: int,
) -> list[list[RowScore]]:
    """Read the trunks, then the branches behind them."""
    stems = [group[0].ids[prefix:end] for group, end in zip(groups, trunks, strict=True)]
    wanted = _one_per_row([len(stem) - 1 for stem in stems], max(map(len, stems)))
    behind = None if past is None else past.rows([0] * len(stems))
    logits, read = read_rows(base, behind, stems, wanted)
    rows = [row for group in groups for row in group]
    owners = [index for index, group in enumerate(groups) for _ in group]
    first = _first_scores(base, logits, rows, owners, trunks)
    # Where a branch is one token, the trunk has predicted it already.
    longer = [place for place, row in enumerate(rows) if len(row.ids) - trunks[owners[place]] > 1]
    lengths = [len(rows[place].ids) - trunks[owners[place]] for place in longer]
    for part in batches_by_length(lengths, batch_size, base.device):
        picked = [longer[place] for place in part]
        mine = [owners[place] for place in picked]
        scores = _read_on(base, read.rows(mine), [rows[place] for place in picked], [trunks[owner] for owner in mine])
        for place, score in zip(picked, scores, strict=True):
            first[place] = _sum_of(first[place], score)
    return _regrouped(first, groups)


def _first_scores(
    base: Base, logits: Callable[[slice], Tensor], rows: Sequence[Tokens], owners: Sequence[int], trunks: Sequence[int]
) -> list[RowScore]:
    """What the last token of a trunk says of the first token of each branch, where that token is scored."""
    table = torch.log_softmax(logits(slice(None)).float(), dim=-1)
    owner = torch.tensor(list(owners), device=base.device)
    target = torch.tensor([row.ids[trunks[i]] for row, i in zip(rows, owners, strict=True)], device=base.device)
    values = table[owner, target].double().tolist()
    likeliest = (table.argmax(dim=-1)[owner] == target).tolist()
    scored = [row.n_prompt <= trunks[i] for row, i in zip(rows, owners, strict=True)]
    return [(v, 1, g) if s else (0.0, 0, True) for v, g, s in zip(values, likeliest, scored, strict=True)]


def _read_on(base: Base, past: Past, rows: Sequence[Tokens], starts: Sequence[int]) -> list[RowScore]:
    """Read rows from where their past ends, and score the tokens behind that."""
    pieces = [row.ids[start:-1] for row, start in zip(rows, starts, strict=True)]
    wanted = torch.zeros(len(rows), max(map(len, pieces)), dtype=torch.bool)
    targets: list[int] = []
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        # Position t predicts token t + 1; what is predicted before `n_prompt` is prompt.
        begin = max(row.n_prompt, start + 1)
        wanted[index, begin - start - 1 : len(row.ids) - start - 1] = True
        targets += row.ids[begin:]
    logits, _ = read_rows(base, past, pieces, wanted)
    values, likeliest = target_scores(base, logits, torch.tensor(targets, dtype=torch.long, device=base.device))
    return _by_row(wanted.sum(dim=1).tolist(), values, likeliest)


def _whole_rows(base: Base, rows: Sequence[Tokens]) -> list[RowScore]:
    batch = collate(rows, device=base.device)
    values, likeliest = target_scores(base, scored_logits(base, batch), batch.ids[:, 1:][batch.scored])
    return _by_row(batch.scored.sum(dim=1).tolist(), values, likeliest)


def _by_row(counts: Sequence[int], values: Tensor, likeliest: Tensor) -> list[RowScore]:
    sizes = list(counts)
    parts = zip(values.cpu().split(sizes), likeliest.cpu().split(sizes), sizes, strict=True)
    return [(float(part.sum()), int(size), bool(greedy.all())) for part, greedy, size in parts]


def _sum_of(first: RowScore, rest: RowScore) -> RowScore:
    return first[0] + rest[0], first[1] + rest[1], first[2] and rest[2]


def _regrouped(scores: Sequence[RowScore], groups: Sequence[Sequence[Tokens]]) -> list[list[RowScore]]:
    rest = iter(scores)
    return [[next(rest) for _ in group] for group in groups]


def _one_per_row(places: Sequence[int], width: int) -> Tensor:
    wanted = torch.zeros(len(places), width, dtype=torch.bool)
    wanted[torch.arange(len(places)), torch.tensor(list(places))] = True
    return wanted
