"""One adapter of a group: its weights, optimizer, plan and progress.

In: a job with its data and PEFT's start. Out: an adapter that takes the steps a training alone would take: its own
learning rates, clipping, AdamW and early stopping. All its weights are views of one vector, so that a step is a few
operations on it, whatever the number of modules. Refused: a loss or gradient that is not finite.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tclora.errors import NumericalError
from tclora.training.checkpoint import read_checkpoint, restore_optimizer, save_checkpoint, whole_checkpoints
from tclora.training.data import JobData
from tclora.training.grouped_lora import ModuleLora
from tclora.training.job import TrainJob
from tclora.training.output import work_folder
from tclora.training.plan import learning_rate, plan_batches
from tclora.training.start import Start

__all__ = ["Member"]

_BEST = "best/"


class Member:
    """An adapter in training."""

    def __init__(self, job: TrainJob, digest: str, data: JobData, start: Start, device: torch.device):
        self.job, self.digest, self.data = job, digest, data
        self.plan = plan_batches(data.train, job.params, seed=job.seed, max_tokens=job.max_tokens)
        self._flat, self.weights = _views(start.weights, device)
        self.modules = {
            path: ModuleLora(self.weights[one.lora_a], self.weights[one.lora_b], one.scaling, one.dropout)
            for path, one in start.modules.items()
        }
        params = job.params
        self._optimizer = torch.optim.AdamW([self._flat], lr=params.lr, weight_decay=params.weight_decay)
        name = hashlib.sha256(f"{job.name}/{job.seed}".encode()).digest()
        self.dropout_seed = int.from_bytes(name[:8], "big")
        self.losses: list[float] = []
        self.dev_losses: list[tuple[int, float]] = []
        self.error: NumericalError | None = None
        self._best: Tensor | None = None

    @property
    def n_steps(self) -> int:
        return len(self.plan.batches)

    @property
    def stopped(self) -> bool:
        """Whether the dev loss has not fallen for `patience` evaluations."""
        patience = self.job.params.patience
        values = [loss for _, loss in self.dev_losses]
        return patience is not None and bool(values) and len(values) - 1 - values.index(min(values)) >= patience

    @property
    def done(self) -> bool:
        return len(self.losses) == self.n_steps or self.stopped

    @property
    def wants_dev_loss(self) -> bool:
        """Whether early stopping evaluates after the step just done: every `eval_every`, or once an epoch."""
        params = self.job.params
        if params.patience is None or not any(row.n_scored for row in self.data.dev):
            return False
        an_epoch = math.ceil(len(self.data.train) / params.batch_size)
        return len(self.losses) % (params.eval_every or an_epoch) == 0 or len(self.losses) == self.n_steps

    def step(self, loss: float, scale: float) -> None:
        """Clip and apply the gradients, or leave the weights and keep the error where one is not finite.

        Args:
            loss: nats per response token of the batch.
            scale: what the loss was multiplied by for the backward pass.
        """
        params, step = self.job.params, len(self.losses)
        gradient = self._gradient()
        if scale != 1.0:
            gradient.div_(scale)
        norm = float(torch.nn.utils.clip_grad_norm_([self._flat], params.grad_clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.error = self._not_finite(loss, norm)
            return
        self._optimizer.param_groups[0]["lr"] = learning_rate(step, self.n_steps, params)
        self._optimizer.step()
        gradient.zero_()
        self.losses.append(loss)

    def note_dev_loss(self, loss: float) -> None:
        """Keep the evaluation, and the weights if they are the best so far."""
        if all(loss < earlier for _, earlier in self.dev_losses):
            self._best = self._flat.detach().clone()
        self.dev_losses.append((len(self.losses), loss))

    @torch.no_grad()
    def take_best(self) -> None:
        """With early stopping, go back to the weights of the lowest dev loss."""
        if self._best is not None:
            self._flat.copy_(self._best)

    def save(self, group: str) -> None:
        """Write a checkpoint that says which group's arithmetic it comes from."""
        best = {} if self._best is None else {_BEST: self._best}
        save_checkpoint(
            work_folder(self.job),
            job_digest=self.digest,
            losses=self.losses,
            weights={"flat": self._flat, **best},
            optimizer=self._optimizer,
            facts={"group": group, "dev": [list(one) for one in self.dev_losses]},
        )

    def checkpoints(self) -> dict[int, tuple[Path, str]]:
        """Folder and group of every whole checkpoint, by the number of steps done."""
        found = whole_checkpoints(work_folder(self.job), job_digest=self.digest)
        return {int(path.name.split("-")[1]): (path, str(facts["group"])) for path, facts in found.items() if facts}

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint; one that was damaged meanwhile leaves the member at its start."""
        checkpoint = read_checkpoint(folder, self.digest)
        if checkpoint is None:
            return
        self._flat.copy_(checkpoint.weights["flat"])
        best = checkpoint.weights.get(_BEST)
        self._best = None if best is None else best.to(self._flat.device)
        restore_optimizer(self._optimizer, checkpoint.optimizer)
        self.losses = list(checkpoint.losses)
        self.dev_losses = [(int(step), float(loss)) for step, loss in checkpoint.facts["dev"]]

    def _gradient(self) -> Tensor:
        if self._flat.grad is None:
            raise AssertionError("a member's gradient buffer lives as long as the member")
        return self._flat.grad

    def _not_finite(self, loss: float, norm: float) -> NumericalError:
        return NumericalError(
            f"the training of {self.job.name} gave out",
            where=f"{self.job.name}, step {len(self.losses) + 1} of {self.n_steps}",
            found=f"loss {loss}, gradient norm {norm}",
            expected="finite numbers",
            do="lower lr or grad_clip"
            + (", or use autocast: none" if self.job.params.autocast != "none" else "")
            + "; the other adapters go on",
        )


def _views(start: Mapping[str, Tensor], device: torch.device) -> tuple[torch.nn.Parameter, dict[str, Any]]:
    """One vector of all weights with its gradient, and parameters that are parts of both."""
    flat = torch.nn.Parameter(torch.cat([weight.reshape(-1).float() for weight in start.values()]).to(device))
    flat.grad = torch.zeros_like(flat)
    views, end = {}, 0
    for name, weight in start.items():
        part = slice(end, end + weight.numel())
        views[name] = torch.nn.Parameter(flat.data[part].view(weight.shape))
        views[name].grad = flat.grad[part].view(weight.shape)
        end = part.stop
    return flat, views
