"""The optimizer steps of one training.

In: a base with LoRA layers on it, tokenized examples and their plan. Out: the loss of every step; the weights change in
place. The loss of a step is the mean over the response tokens of its whole batch, so how rows are split into
forward passes weighs nothing. Refused: a loss or gradient that is not finite.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from tclora.config import TrainConfig
from tclora.errors import NumericalError
from tclora.models import Base, Tokens, collate, max_pass_tokens, token_losses
from tclora.training.checkpoint import load_newest, restore_optimizer, save_checkpoint
from tclora.training.lora import drawing_from
from tclora.training.plan import Plan, learning_rate, loss_scale, split_rows

__all__ = ["Run", "run_steps"]

_PASS_COST = {"cpu": 128, "cuda": 4096}
"""What a forward and backward pass costs on top of its tokens, in tokens."""


@dataclass(frozen=True)
class Run:
    """What the steps of one training need besides the weights."""

    name: str
    base: Base
    params: TrainConfig
    tokens: Sequence[Tokens]
    plan: Plan
    seed: int
    work: Path
    digest: str
    on_step: Callable[[int, int], None] | None = None


def run_steps(run: Run, weights: Mapping[str, torch.nn.Parameter]) -> list[float]:
    """Train from the newest checkpoint, or from the start, to the end of the plan.

    Returns:
        nats per response token of every step, those before the checkpoint included.

    Raises:
        NumericalError: a loss or a gradient is NaN or infinite; names the step and the adapter.
    """
    optimizer = torch.optim.AdamW(weights.values(), lr=run.params.lr, weight_decay=run.params.weight_decay)
    losses = _resume(run, weights, optimizer)
    n_steps = len(run.plan.batches)
    for step in range(len(losses), n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps, run.params)
        losses.append(_step(run, weights, optimizer, step))
        if len(losses) % run.params.checkpoint_every == 0 and len(losses) < n_steps:
            save_checkpoint(run.work, job_digest=run.digest, losses=losses, weights=weights, optimizer=optimizer)
        if run.on_step is not None:
            run.on_step(len(losses), n_steps)
    return losses


@torch.no_grad()
def _resume(run: Run, weights: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> list[float]:
    checkpoint = load_newest(run.work, job_digest=run.digest)
    if checkpoint is None:
        return []
    for name, weight in weights.items():
        weight.copy_(checkpoint.weights[name])
    restore_optimizer(optimizer, checkpoint.optimizer)
    return list(checkpoint.losses)


def _step(run: Run, weights: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> float:
    scale = loss_scale(run.params.autocast)
    with drawing_from(run.base.device, run.seed, step):
        loss = _backward(run, run.plan.batches[step], scale)
    for weight in weights.values():
        if scale != 1.0 and weight.grad is not None:
            weight.grad.div_(scale)
    norm = torch.nn.utils.clip_grad_norm_(weights.values(), run.params.grad_clip)
    # Checked before the weights are touched: no checkpoint can hold the damage.
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _not_finite(run, step, loss, float(norm))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def _backward(run: Run, batch: Sequence[int], scale: float) -> float:
    """Add up the gradients of one batch; its mean loss in nats per response token."""
    n_scored = sum(run.tokens[index].n_scored for index in batch)
    total = torch.zeros((), dtype=torch.float64, device=run.base.device)
    for rows in _passes(run, batch):
        with _autocast(run):
            loss = token_losses(run.base, collate(rows, device=run.base.device)).sum() / n_scored
        (loss * scale).backward()
        total += loss.detach()
    return total.item()


def _passes(run: Run, batch: Sequence[int]) -> list[list[Tokens]]:
    """The rows of each forward pass of a batch: as many as save most padding, none above the micro-batch size."""
    rows = [run.tokens[index] for index in batch]
    cuts = split_rows(
        [len(row.ids) for row in rows],
        max_rows=run.params.micro_batch_size or len(rows),
        max_tokens=max_pass_tokens(run.base.device),
        pass_cost=_PASS_COST["cuda" if run.base.device.type == "cuda" else "cpu"],
    )
    return [rows[cut] for cut in cuts]


def _autocast(run: Run) -> AbstractContextManager[object]:
    if run.params.autocast == "none":
        return nullcontext()
    return torch.autocast(run.base.device.type, dtype=getattr(torch, run.params.autocast))


def _not_finite(run: Run, step: int, loss: float, norm: float) -> NumericalError:
    return NumericalError(
        f"the training of {run.name} gave out",
        where=f"{run.name}, step {step + 1} of {len(run.plan.batches)}",
        found=f"loss {loss}, gradient norm {norm}",
        expected="finite numbers",
        do="lower lr or grad_clip, or use autocast: none" if run.params.autocast != "none" else "lower lr or grad_clip",
    )
