"""The controls as contestants: who is scored, by which assignment items find their adapter, and who is compared.

In: the settings and the groups of the controls. Out: contestants of kind `control`, assignments of items, and pairs of
names whose losses are compared on the same examples. A control library is routed by its own groups: random ones for
random clusters, the item's task (or the nearest one) for tasks.
"""

from collections.abc import Sequence

import numpy as np

from tclora.config import RunConfig
from tclora.evaluation import Contestant
from tclora.pipeline.layout import EQUAL_PARAMETERS, MULTI_TASK, RunFolder
from tclora.pipeline.stages.control import control_merges
from tclora.pipeline.stages.control_groups import ControlGroups, known_or_nearest, shuffled
from tclora.shapes import Float, Int

__all__ = ["ROUTED", "control_contestants", "control_pairs", "dev_routes", "new_routes"]

ROUTED = "routed library"
"""What the library is called where each item goes to its cluster's adapter."""

Routes = dict[str, tuple[int, ...]]


def control_contestants(config: RunConfig, run: RunFolder, groups: Sequence[ControlGroups]) -> list[Contestant]:
    """Each control library, routed and under every merge, and the multi-task adapter of equal parameters."""
    contestants = []
    for one in groups:
        folders = tuple(str(run.controls / one.control / name) for name in one.names)
        contestants.append(Contestant(_routed(one), "control", folders, one.control))
        contestants += [
            Contestant(_merged(one, merge.label), "control", (str(run.merge_controls / one.control / merge.label),))
            for merge in control_merges(config, one)
        ]
    if "multi_task_equal_parameters" in config.train.controls:
        contestants.append(Contestant(EQUAL_PARAMETERS, "control", (str(run.controls / EQUAL_PARAMETERS),)))
    return contestants


def control_pairs(config: RunConfig, groups: Sequence[ControlGroups]) -> list[tuple[str, str]]:
    """Like with like: library against control library, both routed or both merged by one method; all against one LoRA.

    The loss of the first less that of the second is what the clusters add, or the merge.
    """
    single = [MULTI_TASK] if config.train.multi_task else []
    single += [EQUAL_PARAMETERS] if "multi_task_equal_parameters" in config.train.controls else []
    merges = [merge.label for merge in config.merge]
    pairs = [(ROUTED, _routed(one)) for one in groups] + [(ROUTED, name) for name in single]
    pairs += [(merge.label, _merged(one, merge.label)) for one in groups for merge in control_merges(config, one)]
    return pairs + [(merge, name) for name in single for merge in merges]


def dev_routes(groups: Sequence[ControlGroups]) -> Routes:
    """The group of every dev example, by control."""
    return {one.control: tuple(one.dev.tolist()) for one in groups}


def new_routes(
    groups: Sequence[ControlGroups],
    rows: Float[np.ndarray, "n d_embed"],
    clusters: Int[np.ndarray, " n"],
    tasks: Sequence[str],
    *,
    seed: int,
    use: str,
) -> Routes:
    """The group of every new text, by control: as dev examples get theirs."""
    return {one.control: tuple(_new(one, rows, clusters, tasks, seed, use).tolist()) for one in groups}


def _new(
    one: ControlGroups,
    rows: Float[np.ndarray, "n d_embed"],
    clusters: Int[np.ndarray, " n"],
    tasks: Sequence[str],
    seed: int,
    use: str,
) -> Int[np.ndarray, " n"]:
    if one.centroids is None:
        return shuffled(clusters, seed=seed, use=use)
    return known_or_nearest(tasks, one.tasks, rows, one.centroids)


def _routed(groups: ControlGroups) -> str:
    return f"{groups.control} routed"


def _merged(groups: ControlGroups, label: str) -> str:
    return f"{groups.control} {label}"
