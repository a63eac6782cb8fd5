"""Checkpoints from which a killed training goes on, to the same bits.

In: the LoRA weights, AdamW's moments and the losses so far. Out: `step-00000050/` in the work folder, staged beside its
place, flushed and renamed, with digests in `state.json`. On resuming, a checkpoint that is damaged, unfinished or of
another job does not count; the two newest are kept so that one bad one costs little. No pickle is read or written.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from tclora.artifacts import digest_of, read_json, sha256_file, staged_folder, write_bytes, write_json
from tclora.errors import ArtifactError

__all__ = ["Checkpoint", "load_newest", "restore_optimizer", "save_checkpoint"]

_KEPT = 2
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """All that a training is after as many optimizer steps as it has losses."""

    losses: tuple[float, ...]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_checkpoint(
    work: Path,
    *,
    job_digest: str,
    losses: list[float],
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the checkpoint of step `len(losses)`; older ones than the last two are removed after it is on disk."""
    with staged_folder(work / f"step-{len(losses):08d}", overwrite=True) as folder:
        write_bytes(folder / _WEIGHTS, save({name: _plain(weight) for name, weight in weights.items()}))
        write_bytes(folder / _OPTIMIZER, save(_moments(optimizer)))
        digests = {name: sha256_file(folder / name) for name in (_WEIGHTS, _OPTIMIZER)}
        state = {"job": job_digest, "losses": losses, "sha256": digests}
        write_json(folder / _STATE, {**state, "digest": digest_of(state)})
    for old in _folders(work)[_KEPT:]:
        shutil.rmtree(old)


def load_newest(work: Path, *, job_digest: str) -> Checkpoint | None:
    """The newest whole checkpoint of this very job, or None."""
    found = (_load(folder, job_digest) for folder in _folders(work))
    return next((checkpoint for checkpoint in found if checkpoint is not None), None)


def restore_optimizer(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Give AdamW the moments of a checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _folders(work: Path) -> list[Path]:
    return sorted(work.glob("step-*"), reverse=True)


def _load(folder: Path, job_digest: str) -> Checkpoint | None:
    try:
        state = read_json(folder / _STATE)
        content = {name: (folder / name).read_bytes() for name in (_WEIGHTS, _OPTIMIZER)}
        digests = {name: sha256_file(folder / name) for name in content}
        losses = [float(loss) for loss in state["losses"]]
        present = {"job": job_digest, "losses": losses, "sha256": digests}
        if state != {**present, "digest": digest_of(present)}:
            return None
    except (ArtifactError, OSError, KeyError, TypeError, ValueError):
        return None  # damage is not an error here: an older checkpoint, or the start, gives the same result
    return Checkpoint(tuple(losses), load(content[_WEIGHTS]), load(content[_OPTIMIZER]))


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": _plain(tensor) for index, entry in state.items() for key, tensor in entry.items()}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
