"""What an extension decided, as a record with a table a person can read.

In: an assignment. Out: `ExtendRecord`, JSON in and out. A row of the table is a cluster: how many of the new examples
it gets, how many of them lie far, and a histogram of their distances with the threshold in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tclora.pipeline.extension.assign import Assignment
from tclora.shapes import Float, Int

__all__ = ["ClusterShare", "ExtendRecord", "histogram_line", "shares_of"]

N_BINS = 16
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class ClusterShare:
    """What one cluster gets. Distances are Euclidean, to the centroid of the nearest cluster the library had."""

    name: str
    cluster: int
    is_new: bool
    n_before: int
    n_train: int
    n_dev: int
    n_far: int
    threshold: float | None
    median: float | None
    histogram: tuple[int, ...]
    """New examples by distance, from 0 to the table's largest in 16 steps."""


@dataclass(frozen=True)
class ExtendRecord:
    """One extension: what was given, what was decided, and what was trained."""

    id: str
    already: bool
    """Whether the library held all of it before; nothing was done then."""
    n_given: int
    n_known: int
    n_train: int
    n_dev: int
    n_far: int
    threshold: str
    largest: float
    """The upper end of the histograms."""
    shares: tuple[ClusterShare, ...] = ()
    opened: tuple[str, ...] = ()
    retrained: tuple[str, ...] = ()
    waiting: dict[str, int] | None = None
    """New examples that no adapter has been trained on, by adapter."""
    merged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def shares_of(
    found: Assignment, is_dev: np.ndarray, names: Mapping[int, str], before: Mapping[int, int]
) -> tuple[ClusterShare, ...]:
    """A row for each cluster that has an adapter or gets one."""
    top = float(found.distance.max()) if len(found.distance) else 0.0
    return tuple(_share(found, is_dev, index, name, before.get(index), top) for index, name in names.items())


def histogram_line(share: ClusterShare, largest: float) -> str:
    """The histogram as one line of bars, with `|` where the threshold lies."""
    most = max(share.histogram, default=0)
    bars = [_BARS[-(-count * (len(_BARS) - 1) // most)] if most else " " for count in share.histogram]
    if share.threshold is not None and largest > 0:
        bars.insert(min(N_BINS, round(share.threshold / largest * N_BINS)), "|")
    return "".join(bars)


def _share(
    found: Assignment, is_dev: np.ndarray, index: int, name: str, before: int | None, top: float
) -> ClusterShare:
    mine = found.labels == index
    distances: Float[np.ndarray, " n"] = found.distance[mine]
    counts: Int[np.ndarray, " b"] = np.histogram(distances, bins=N_BINS, range=(0, top or 1.0))[0]
    return ClusterShare(
        name=name,
        cluster=index,
        is_new=before is None,
        n_before=before or 0,
        n_train=int((mine & ~is_dev).sum()),
        n_dev=int((mine & is_dev).sum()),
        n_far=int((mine & found.is_far).sum()),
        threshold=round(found.thresholds[index], 6) if index in found.thresholds else None,
        median=round(float(np.median(distances)), 6) if len(distances) else None,
        histogram=tuple(counts.tolist()),
    )
