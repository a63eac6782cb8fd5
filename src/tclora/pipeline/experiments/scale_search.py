"""The scale at which a loss is lowest, in few evaluations.

In: a loss as a function of a positive scale, and a grid that holds 1. Out: the losses of every scale looked at. The
walk goes from 1 downhill, first towards smaller scales, until the loss rises; then steps go to the vertex of the
parabola through the best point and its two neighbors, in the logarithm of the scale. It finds the lowest of a loss that
has one valley; of others it finds one of the valleys.
"""

import math
from collections.abc import Callable, Sequence

__all__ = ["best_scale", "search_scale"]

# A vertex this close to a neighbor, as a share of the way to it, is moved off: it would tell nothing new.
_CLOSEST = 0.15


def search_scale(
    loss: Callable[[float], float], grid: Sequence[float], *, steps: int = 2, every: bool = False
) -> dict[float, float]:
    """Losses by scale; the scale of the lowest is the answer.

    Args:
        grid: rising, with 1 in it.
        steps: refinements by a parabola.
        every: look at the whole grid instead of walking.
    """
    losses = {scale: loss(scale) for scale in grid} if every else _walked(loss, grid)
    for _ in range(steps):
        scale = _vertex(losses)
        if scale is not None and scale not in losses:
            losses[scale] = loss(scale)
    return losses


def best_scale(losses: dict[float, float]) -> tuple[float, bool]:
    """The scale of the lowest loss, and whether it is the smallest or the largest of several that were looked at."""
    best = min(losses, key=lambda scale: (losses[scale], scale))
    return best, len(losses) > 1 and best in (min(losses), max(losses))


def _walked(loss: Callable[[float], float], grid: Sequence[float]) -> dict[float, float]:
    losses = {1.0: loss(1.0)}
    for step in (-1, 1):
        place = grid.index(1.0) + step
        while 0 <= place < len(grid):
            losses[grid[place]] = loss(grid[place])
            if losses[grid[place]] >= losses[grid[place - step]]:
                break
            place += step
        if min(losses, key=losses.__getitem__) < 1:
            break
    return losses


def _vertex(losses: dict[float, float]) -> float | None:
    """The lowest point of the parabola around the best scale; None where that lies at an end."""
    scales = sorted(losses)
    best = scales.index(min(losses, key=losses.__getitem__))
    if best in (0, len(scales) - 1):
        return None
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(s), losses[s]) for s in scales[best - 1 : best + 2])
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if not curvature > 0:
        return None
    vertex = (x0 + x1) / 2 - left / (2 * curvature)
    vertex = min(max(vertex, x0 + _CLOSEST * (x1 - x0)), x2 - _CLOSEST * (x2 - x1))
    if abs(vertex - x1) < _CLOSEST * ((x1 - x0) if vertex < x1 else (x2 - x1)):
        wider = x0 if x1 - x0 > x2 - x1 else x2
        vertex = x1 + _CLOSEST * (wider - x1)
    return float(f"{math.exp(vertex):.3g}")
