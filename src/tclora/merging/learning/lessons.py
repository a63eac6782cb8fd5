"""What teachers predict, row by row, and how far a student is from it.

In: a base, teachers, one pool of token rows per teacher. Out: `Lesson`s, and the divergence KL(teacher || student) of
any of them. A teacher's last hidden states at the scored positions are kept where the output layer is the base's own:
d numbers a token in place of a whole vocabulary, and the teacher is asked once. Elsewhere it is asked again each time.
Refused: a teacher that does not fit the base.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tclora.adapters import Adapter
from tclora.models import Base, TokenBatch, Tokens, attached, batches_by_length, collate, max_pass_tokens
from tclora.models.scoring import scored_logits
from tclora.shapes import Float

__all__ = ["Lesson", "divergence_sums", "divergences", "lessons_of"]

_MAX_LOGITS = 2**25


@dataclass(frozen=True, eq=False)
class Lesson:
    """A row, whose teacher it is, and that teacher's hidden states at its scored positions (None: ask the teacher)."""

    tokens: Tokens
    teacher: Adapter
    pool: int
    states: Float[Tensor, "n_scored d"] | None


def lessons_of(base: Base, teachers: Sequence[Adapter], pools: Sequence[Sequence[Tokens]]) -> list[list[Lesson]]:
    """Ask every teacher once, on its own pool; one list per pool.

    Raises:
        AdapterMismatchError: a teacher does not fit the base.
    """
    found = []
    for k, (teacher, rows) in enumerate(zip(teachers, pools, strict=True)):
        states = _states(base, teacher, rows) if _own_head(base, teacher) else [None] * len(rows)
        found.append([Lesson(row, teacher, k, one) for row, one in zip(rows, states, strict=True)])
    return found


def divergence_sums(
    base: Base, student: Callable[[], Adapter], lessons: Sequence[Lesson]
) -> Iterator[tuple[list[Lesson], Tensor]]:
    """Pass by pass: the lessons of a pass, and the sum of KL(teacher || student) over each one's scored positions.

    In nats, (n_lessons,); a gradient reaches the student, which is asked for anew for each pass: none then holds
    another's graph.
    """
    for some in _passes(base, lessons):
        batch = collate([one.tokens for one in some], device=base.device)
        sums = torch.zeros(len(some), device=base.device)
        found = _found(base, student(), batch, _wanted(base, some))
        yield some, sums.index_add(0, batch.scored.nonzero()[:, 0], found)


def divergences(base: Base, teacher: Adapter, student: Adapter, batch: TokenBatch) -> Float[Tensor, " n_scored"]:
    """KL(teacher || student) of the next token at each scored position, in nats; a gradient reaches the student."""
    return _found(base, student, batch, lambda: _asked(base, teacher, batch))


def _found(
    base: Base, student: Adapter, batch: TokenBatch, wanted: Callable[[], Float[Tensor, "n_scored v"]]
) -> Float[Tensor, " n_scored"]:
    with torch.no_grad():
        aim = torch.log_softmax(wanted().float(), dim=-1)
    with attached(base, student):
        found = torch.log_softmax(scored_logits(base, batch)(slice(None)).float(), dim=-1)
    return (aim.exp() * (aim - found)).sum(dim=-1)


def _wanted(base: Base, lessons: Sequence[Lesson]) -> Callable[[], Float[Tensor, "n_scored v"]]:
    """The teachers' logits for a pass; where states are not kept, all its lessons are of one teacher."""
    states = [one.states for one in lessons if one.states is not None]
    if len(states) == len(lessons):
        head: Any = base.model.get_output_embeddings()
        return lambda: head(torch.cat(states).to(base.device))
    batch = collate([one.tokens for one in lessons], device=base.device)
    return lambda: _asked(base, lessons[0].teacher, batch)


def _asked(base: Base, teacher: Adapter, batch: TokenBatch) -> Float[Tensor, "n_scored v"]:
    with torch.no_grad(), attached(base, teacher):
        return scored_logits(base, batch)(slice(None))


def _own_head(base: Base, teacher: Adapter) -> bool:
    """Whether the base's output layer alone makes logits of the teacher's last hidden states."""
    if not base.split_head:
        return False
    head = base.model.get_output_embeddings()
    return not any(module is head for name, module in base.model.named_modules() if name in teacher.shapes)


@torch.no_grad()
def _states(base: Base, teacher: Adapter, rows: Sequence[Tokens]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with attached(base, teacher):
        for indices in _by_length(base, rows):
            batch = collate([rows[index] for index in indices], device=base.device)
            hidden = base.model.base_model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
            for place, index in enumerate(indices):
                found[index] = hidden[place][batch.scored[place]].cpu()
    return [found[index] for index in range(len(rows))]


def _passes(base: Base, lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """Lessons of similar length together; those whose teacher must be asked, teacher by teacher."""
    kept = [one for one in lessons if one.states is not None]
    asked: dict[int, list[Lesson]] = {}
    for one in lessons:
        if one.states is None:
            asked.setdefault(one.pool, []).append(one)
    for group in [kept, *asked.values()]:
        if group:
            for indices in _by_length(base, [one.tokens for one in group]):
                yield [group[index] for index in indices]


def _by_length(base: Base, rows: Sequence[Tokens]) -> Iterator[list[int]]:
    """No more rows at once than memory and speed allow."""
    vocabulary = base.model.config.get_text_config().vocab_size
    longest = max(len(row.ids) for row in rows)
    size = max(1, min(len(rows), max_pass_tokens(base.device) // longest, _MAX_LOGITS // (vocabulary * longest)))
    return batches_by_length([len(row.ids) for row in rows], size, base.device)
