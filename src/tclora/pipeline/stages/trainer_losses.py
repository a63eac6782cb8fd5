"""The losses that a trainer left beside its adapter, where it left any.

In: an adapter folder. Out: (train loss, dev loss) in nats per response token, None where they are not known. Read are
tclora's `record.json`, LLaMA-Factory's `all_results.json` and the `trainer_state.json` of transformers' Trainer, which
axolotl writes too, at the folder's root or in its newest checkpoint.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tclora.artifacts import read_json
from tclora.errors import ArtifactError

__all__ = ["losses_of"]


def losses_of(folder: Path) -> tuple[float | None, float | None]:
    """Train and dev loss; a file that is damaged or says nothing is passed over, for the figures are only shown."""
    for path, names in (
        (folder / "record.json", ("train_loss", "dev_loss")),
        (folder / "all_results.json", ("train_loss", "eval_loss")),
    ):
        data = _read(path)
        found = _number(data, names[0]), _number(data, names[1])
        if found != (None, None):
            return found
    return _of_states([folder / "trainer_state.json", *_checkpoints(folder)])


def _of_states(paths: list[Path]) -> tuple[float | None, float | None]:
    for path in paths:
        log = _read(path).get("log_history")
        rows = [row for row in log if isinstance(row, Mapping)] if isinstance(log, list) else []
        train = [value for row in rows for key in ("train_loss", "loss") if (value := _number(row, key)) is not None]
        dev = [value for row in rows if (value := _number(row, "eval_loss")) is not None]
        if train or dev:
            return (train[-1] if train else None), (dev[-1] if dev else None)
    return None, None


def _checkpoints(folder: Path) -> list[Path]:
    def step(path: Path) -> int:
        tail = path.parent.name.rpartition("-")[2]
        return int(tail) if tail.isdecimal() else -1

    return sorted(folder.glob("checkpoint-*/trainer_state.json"), key=step, reverse=True)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = read_json(path)
    except ArtifactError:
        return {}
    return data if isinstance(data, Mapping) else {}


def _number(data: Mapping[str, Any], key: str) -> float | None:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
