"""Checkpoints from which a killed training goes on, to the same bits.

In: the LoRA weights, AdamW's moments and the losses so far. Out: `step-00000050/` in the work folder, staged beside its
place, flushed and renamed, with digests in `state.json`. On resuming, a checkpoint that is damaged, unfinished or of
another job does not count; the two newest are kept so that one bad one costs little. No pickle is read or written.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from tclora.artifacts import digest_of, read_json, sha256_file, staged_folder, write_bytes, write_json
from tclora.errors import ArtifactError

__all__ = ["Checkpoint", "load_newest", "read_checkpoint", "restore_optimizer", "save_checkpoint", "whole_checkpoints"]

_KEPT = 2
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """All that a training is after as many optimizer steps as it has losses."""

    losses: tuple[float, ...]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    """What else its trainer wrote down; the trainer of one adapter writes nothing."""


def save_checkpoint(
    work: Path,
    *,
    job_digest: str,
    losses: list[float],
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the checkpoint of step `len(losses)`; older ones than the last two are removed after it is on disk."""
    with staged_folder(work / f"step-{len(losses):08d}", overwrite=True) as folder:
        write_bytes(folder / _WEIGHTS, save({name: _plain(weight) for name, weight in weights.items()}))
        write_bytes(folder / _OPTIMIZER, save(_moments(optimizer)))
        digests = {name: sha256_file(folder / name) for name in (_WEIGHTS, _OPTIMIZER)}
        state = {"job": job_digest, "losses": losses, "sha256": digests, "facts": dict(facts or {})}
        write_json(folder / _STATE, {**state, "digest": digest_of(state)})
    for old in _folders(work)[_KEPT:]:
        shutil.rmtree(old)


def load_newest(work: Path, *, job_digest: str) -> Checkpoint | None:
    """The newest whole checkpoint of this very job, trained alone, or None."""
    found = (read_checkpoint(folder, job_digest) for folder in _folders(work))
    return next((checkpoint for checkpoint in found if checkpoint is not None and not checkpoint.facts), None)


def whole_checkpoints(work: Path, *, job_digest: str) -> dict[Path, Mapping[str, Any]]:
    """The facts of every whole checkpoint of this very job, newest first; weights are digested and not kept."""
    found = {folder: _whole_state(folder, job_digest) for folder in _folders(work)}
    return {folder: state["facts"] for folder, state in found.items() if state is not None}


def read_checkpoint(folder: Path, job_digest: str) -> Checkpoint | None:
    """The checkpoint in a folder, or None where it is damaged, unfinished or another job's."""
    state = _whole_state(folder, job_digest)
    if state is None:
        return None
    weights, optimizer = (load((folder / name).read_bytes()) for name in (_WEIGHTS, _OPTIMIZER))
    return Checkpoint(tuple(map(float, state["losses"])), weights, optimizer, state["facts"])


def restore_optimizer(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Give AdamW the moments of a checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _folders(work: Path) -> list[Path]:
    return sorted(work.glob("step-*"), reverse=True)


def _whole_state(folder: Path, job_digest: str) -> dict[str, Any] | None:
    try:
        state = read_json(folder / _STATE)
        digests = {name: sha256_file(folder / name) for name in (_WEIGHTS, _OPTIMIZER)}
        losses = [float(loss) for loss in state["losses"]]
        present = {"job": job_digest, "losses": losses, "sha256": digests, "facts": dict(state["facts"])}
        return state if state == {**present, "digest": digest_of(present)} else None
    except (ArtifactError, OSError, KeyError, TypeError, ValueError):
        return None  # damage is not an error here: an older checkpoint, or the start, gives the same result


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": _plain(tensor) for index, entry in state.items() for key, tensor in entry.items()}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
