"""Several adapters trained together on one frozen base.

In: `Member`s. Out: each finished one, as soon as it is done; it leaves the pack and the others go on. In every round
each member takes one optimizer step on the batch that its plan names; the rows of all are packed into passes. A
member whose loss is not finite leaves the pack too. Checkpoints of all members are written at the same rounds, and
before a member leaves, so that a killed group goes on from a round that all share and multiplies the same matrices:
then the result has the same bits on a CPU. Where the members are others than before, each goes on from its own newest
checkpoint, and the last digits may differ: a matrix product may add in another order when it has other rows.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.shapes import Float
from tclora.training.data import mean_loss
from tclora.training.member import Member
from tclora.training.packing import Chunk, cut_batch, join_chunks, pass_tensors
from tclora.training.plan import loss_scale
from tclora.training.shared_base import SharedBase

__all__ = ["Group", "run_group"]

_MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a pass where the settings leave it open; on two cores of a CPU larger passes were no faster."""


@dataclass(frozen=True)
class Group:
    """What the rounds need besides the members."""

    shared: SharedBase
    members: Sequence[Member]
    packed: bool
    name: str
    """A digest of the jobs that are trained together."""
    on_step: Callable[[str, int, int], None] | None
    finish: Callable[[int], None]
    """Scores and writes the member of this index, which is done."""

    @property
    def device(self) -> torch.device:
        return self.shared.base.device

    @property
    def autocast(self) -> str:
        return self.members[0].job.params.autocast

    @property
    def max_tokens(self) -> int:
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        return self.members[0].job.params.max_pass_tokens or _MAX_TOKENS[kind]

    def dev_loss(self, index: int) -> float | None:
        """The dev loss of a member as it is now, in nats per response token."""
        member = self.members[index]
        with self.shared.lora.alone(index):
            return mean_loss(self.shared.base, member.data.dev, member.job)


def run_group(group: Group) -> None:
    """Train all members to their end, from the newest checkpoints where there are any.

    Raises:
        Whatever `finish` raises; members that are not finished keep their checkpoints.
    """
    _resume(group)
    active = list(range(len(group.members)))
    every = min(member.job.params.checkpoint_every for member in group.members)
    for n_rounds in itertools.count():
        done = [index for index in active if group.members[index].done]
        is_due = n_rounds > 0 and n_rounds % every == 0
        if len(active) > 1 if done else is_due:
            for index in active:
                group.members[index].save(group.name)
        for index in done:
            group.finish(index)
        active = [index for index in active if index not in done]
        if not active:
            return
        _round(group, active)
        active = [index for index in active if group.members[index].error is None]


def _resume(group: Group) -> None:
    found = [member.checkpoints() for member in group.members]
    # A member that has written fewer than two has lost none, so it can go back to its start.
    shared = set.intersection(*({*steps, 0} if len(steps) < 2 else set(steps) for steps in found))
    is_same = all(name == group.name for steps in found for _, name in steps.values())
    for member, steps in zip(group.members, found, strict=True):
        step = max(shared) if is_same and shared else max(steps, default=0)
        if step:
            member.restore(steps[step][0])


def _round(group: Group, active: Sequence[int]) -> None:
    """One optimizer step of every active member."""
    scale = loss_scale(group.autocast)
    totals = torch.zeros(len(group.members), dtype=torch.float64, device=group.device)
    chunks = [chunk for index in active for chunk in _chunks(group, index)]
    for some in join_chunks(chunks, packed=group.packed, max_tokens=group.max_tokens):
        _pass(group, some, totals, scale)
    for index, loss in zip(active, totals[active].tolist(), strict=True):
        member = group.members[index]
        member.step(loss, scale)
        if member.error is None and member.wants_dev_loss:
            dev_loss = group.dev_loss(index)
            if dev_loss is not None:
                member.note_dev_loss(dev_loss)
        if member.error is None and group.on_step is not None:
            group.on_step(member.job.name, len(member.losses), member.n_steps)


def _chunks(group: Group, index: int) -> list[Chunk]:
    member = group.members[index]
    step = len(member.losses)
    rows = [member.data.train[row] for row in member.plan.batches[step]]
    parts = cut_batch(
        rows,
        packed=group.packed,
        max_rows=member.job.params.micro_batch_size,
        max_tokens=group.max_tokens,
        device=group.device.type,
    )
    n_scored = sum(row.n_scored for row in rows)
    seed = member.dropout_seed
    return [Chunk(index, part, n_scored, (seed, step, number)) for number, part in enumerate(parts)]


def _pass(group: Group, chunks: Sequence[Chunk], totals: Float[Tensor, " members"], scale: float) -> None:
    """Add the gradients of a pass to its members', and its losses to `totals`."""
    tensors = pass_tensors(chunks, packed=group.packed, device=group.device)
    with group.shared.running(tensors):
        with _autocast(group):
            losses = group.shared.token_losses(tensors) * tensors.loss_weights
        (losses.sum() * scale).backward()
    for span in tensors.scored_spans:
        totals[span.member] += losses.detach()[span.start : span.end].double().sum()


def _autocast(group: Group) -> AbstractContextManager[object]:
    if group.autocast == "none":
        return nullcontext()
    return torch.autocast(group.device.type, dtype=getattr(torch, group.autocast))
