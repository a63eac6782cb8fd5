"""What every exported job has in common, whichever trainer it is for.

In: a run's config, its base and its clusters. Out: `ExportPlan`, with target modules resolved to names and batches
split. Refused: training settings that the other trainers have no key for, rather than left out.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tclora.config import RunConfig, TrainConfig
from tclora.errors import ConfigError
from tclora.models import BUNDLED, Base, bundled_base_path, local_base_path, resolve_targets
from tclora.training import expected_steps

__all__ = [
    "ExportPlan",
    "JobFacts",
    "flat_yaml",
    "make_plan",
    "micro_batches",
    "refuse_own_settings",
    "step_bound",
    "whole_alpha",
]

_ONLY_HERE: Mapping[str, Any] = {"layers": "all", "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True}
"""Settings of `train` that have no common key, with the value that says nothing."""


@dataclass(frozen=True)
class JobFacts:
    """One cluster's job: where its rows are, and how many."""

    name: str
    cluster: int
    n_train: int
    n_dev: int

    @property
    def folder(self) -> str:
        """Where its adapter is expected, relative to the export."""
        return f"adapters/{self.name}"


@dataclass(frozen=True)
class ExportPlan:
    """Everything a trainer's files are written from."""

    config: RunConfig
    source: str
    """The base as another machine finds it: a Hub id, or a folder's absolute path."""
    targets: tuple[str, ...]
    pad_token: str | None
    """A token to pad with, where the tokenizer has none of its own."""
    max_length: int
    prompts: str
    template: str | None
    jobs: tuple[JobFacts, ...]

    @property
    def train(self) -> TrainConfig:
        return self.config.train

    @property
    def four_bit(self) -> bool:
        """Whether the base is to be loaded in 4 bits (QLoRA)."""
        return getattr(self.config.base, "quantization", "none") == "4bit"


def make_plan(
    config: RunConfig, base: Base, jobs: tuple[JobFacts, ...], *, prompts: str, template: str | None
) -> ExportPlan:
    """Resolve what the trainers' files need.

    Raises:
        ConfigError: a training setting cannot be handed over, or `target_modules` matches nothing.
    """
    refuse_own_settings(config)
    folder = local_base_path(config.base)
    named = bundled_base_path() if config.base.path == BUNDLED else folder
    tokenizer = base.tokenizer
    return ExportPlan(
        config=config,
        source=config.base.path if named is None else str(Path(named).resolve()),
        targets=_target_names(base, config.train),
        pad_token=tokenizer.eos_token if tokenizer.pad_token is None else None,
        max_length=base.max_length,
        prompts=prompts,
        template=template,
        jobs=jobs,
    )


def refuse_own_settings(config: RunConfig) -> None:
    """Refuse settings of `train` that only tclora's own trainer knows.

    Raises:
        ConfigError: names the setting.
    """
    for name, plain in _ONLY_HERE.items():
        value = getattr(config.train, name, plain)
        if value != plain:
            raise ConfigError(
                "a training setting cannot be handed to another trainer",
                where=f"train.{name}",
                found=value,
                expected=f"{name}: {plain}, the only value that all of them share",
                do=f"--set train.{name}={str(plain).lower()}, and set it in the written configs yourself",
            )


def whole_alpha(params: TrainConfig, trainer: str) -> int:
    """`lora_alpha` as the whole number that the trainer's schema asks for.

    Raises:
        ConfigError: it is not whole.
    """
    if params.lora_alpha != int(params.lora_alpha):
        raise ConfigError(
            f"{trainer} takes a whole lora_alpha only",
            where="train.lora_alpha",
            found=params.lora_alpha,
            do=f"--set train.lora_alpha={round(params.lora_alpha)}",
        )
    return int(params.lora_alpha)


def micro_batches(params: TrainConfig) -> tuple[int, int]:
    """Rows in one forward pass and how many passes make a step: their product is the batch on one device."""
    most = min(params.micro_batch_size or params.batch_size, params.batch_size)
    micro = next(size for size in range(most, 0, -1) if params.batch_size % size == 0)
    return micro, params.batch_size // micro


def step_bound(params: TrainConfig, n_train: int) -> int | None:
    """`max_steps` where it ends the training before the epochs do: in the other trainers it overrules them."""
    if params.max_steps is None:
        return None
    unbounded = expected_steps(n_train, params.model_copy(update={"max_steps": None}))
    return params.max_steps if params.max_steps < unbounded else None


def flat_yaml(values: Mapping[str, Any], *, title: str) -> str:
    """One key on each line, in the order given; None is left out. Values are JSON, which YAML reads."""
    lines = [f"# {line}" for line in title.splitlines()]
    lines += [f"{key}: {_scalar(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        # YAML 1.1 takes 1e-05 for a string; 1.0e-05 is a number to every reader.
        text = repr(value)
        return re.sub(r"^(-?\d+)e", r"\1.0e", text)
    return json.dumps(value, ensure_ascii=False)


def _target_names(base: Base, params: TrainConfig) -> tuple[str, ...]:
    found = resolve_targets(base.model, params.target_modules)
    if not isinstance(found, str):
        return tuple(found)
    # An expression becomes the paths that it matches: not every trainer passes expressions on.
    return tuple(path for path, _ in base.model.named_modules() if re.fullmatch(found, path))
