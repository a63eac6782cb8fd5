"""What the controls of a library are trained on, as jobs like any other.

In: the settings, the groups of each control, and the records of the trained library. Out: `TrainJob`s. Every control
has the library's own settings. Over whole epochs a control library sees each example as often as the library does, so
the tokens are the same. Where `max_steps` or part of an epoch cuts the training, groups of other examples would take
another number of tokens in the same steps, so the library's tokens are shared out in proportion to each group's steps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tclora.config import RunConfig, TrainConfig
from tclora.pipeline.layout import EQUAL_PARAMETERS, RunFolder
from tclora.pipeline.stages.control_groups import ControlGroups
from tclora.records import TrainRecord
from tclora.training import TrainJob, expected_steps

__all__ = ["control_jobs", "equal_parameters", "group_file"]


def control_jobs(
    config: RunConfig,
    run: RunFolder,
    library: Sequence[TrainRecord],
    groups: Sequence[ControlGroups],
    folder: Path,
) -> list[TrainJob]:
    """The jobs of every control that `train.controls` asks for, except the multi-task adapter at the library's rank.

    Args:
        library: the records of the library's own adapters, one per cluster: they tell the budget.
        folder: the folder of the controls; the files of each group lie in it already.
    """
    budget = sum(record.n_tokens for record in library)
    jobs = [job for one in groups for job in _group_jobs(config, one, budget, folder)]
    if "multi_task_equal_parameters" in config.train.controls:
        jobs.append(
            TrainJob(
                name=EQUAL_PARAMETERS,
                base=config.base,
                train_file=str(run.data / "train.jsonl"),
                dev_file=str(run.data / "dev.jsonl"),
                out=str(folder / EQUAL_PARAMETERS),
                params=equal_parameters(config.train, len(library)),
                seed=config.seed,
                max_tokens=budget,
            )
        )
    return jobs


def equal_parameters(params: TrainConfig, n_adapters: int) -> TrainConfig:
    """Settings of one adapter with as many parameters as `n_adapters` together: the sum of their ranks.

    The scale of the update, alpha / r or alpha / sqrt(r), stays what it was, so that one learning rate serves both.
    """
    grow = n_adapters**0.5 if params.use_rslora else n_adapters
    # A module that only one of the patterns names takes its other value from the defaults, which grow too.
    return params.model_copy(
        update={
            "r": params.r * n_adapters,
            "lora_alpha": float(params.lora_alpha * grow),
            "rank_pattern": {key: r * n_adapters for key, r in params.rank_pattern.items()},
            "alpha_pattern": {key: float(alpha * grow) for key, alpha in params.alpha_pattern.items()},
            "max_steps": None,
        }
    )


def group_file(folder: Path, groups: ControlGroups, index: int, part: str) -> Path:
    """The file of a group's training or dev examples."""
    return folder / "data" / groups.control / f"{groups.names[index]}.{part}.jsonl"


def _group_jobs(config: RunConfig, groups: ControlGroups, budget: int, folder: Path) -> list[TrainJob]:
    shares = _budgets(config.train, np.bincount(groups.train, minlength=len(groups.names)).tolist(), budget)
    has_dev = np.bincount(groups.dev, minlength=len(groups.names)) > 0
    params = config.train.model_copy(update={"max_steps": None})
    return [
        TrainJob(
            name=f"{groups.control} {name}",
            base=config.base,
            train_file=str(group_file(folder, groups, index, "train")),
            dev_file=str(group_file(folder, groups, index, "dev")) if has_dev[index] else None,
            out=str(folder / groups.control / name),
            params=params,
            seed=config.seed,
            max_tokens=shares[index],
        )
        for index, name in enumerate(groups.names)
    ]


def _budgets(params: TrainConfig, sizes: Sequence[int], budget: int) -> Mapping[int, int | None]:
    """Tokens of each group's adapter; None: as many as `epochs` over its examples come to."""
    if params.max_steps is None and float(params.epochs).is_integer():
        return dict.fromkeys(range(len(sizes)))
    steps = [expected_steps(size, params) for size in sizes]
    return {index: budget * n // sum(steps) for index, n in enumerate(steps)}
