"""Pictures of an experiment of kind `merges`: differences with their intervals, losses over a setting, over the scale.

In: an `ExperimentRecord`. Out: SVG texts by file name; a picture that the experiment has nothing for is not made.
"""

from collections.abc import Sequence
from itertools import pairwise

from tclora.records.experiment import ExperimentRecord, PooledFigures
from tclora.reporting.svg import Axis, circle, color, document, line, panel, polyline, rounded_ticks, text

__all__ = ["experiment_pictures"]

REPORT = "report"
_ROW, _LEFT, _WIDTH = 18, 250, 420


def experiment_pictures(
    record: ExperimentRecord, title: str, rivals: Sequence[str], x_label: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The pictures by file name, and what each one shows."""
    pictures: dict[str, str] = {}
    alt: dict[str, str] = {}
    for rival in rivals[:1]:
        if any(rival in one.less for one in record.pooled):
            pictures["less.svg"] = _forest(record, title, rival)
            alt["less.svg"] = f"Loss of every contestant less that of {rival}, with 95 % intervals"
    if len({x for _, _, x in _curve_points(record)}) > 1:
        pictures["curve.svg"] = _curves(record, title, x_label)
        alt["curve.svg"] = f"Loss over {x_label or 'the setting that is swept'}"
    if any(len(cell.losses_by_scale) > 5 for cell in record.cells):
        pictures["scales.svg"] = _scales(record, title)
        alt["scales.svg"] = "Loss over the scale of the merge, first seed, rows on which scales are chosen"
    return pictures, alt


def _forest(record: ExperimentRecord, title: str, rival: str) -> str:
    shown = [one for one in record.pooled if rival in one.less and REPORT in one.less[rival]]
    shown.sort(key=lambda one: (one.library, one.less[rival][REPORT].value))
    contrasts = [one.less[rival][REPORT] for one in shown]
    low, high = min(min(c.low for c in contrasts), 0), max(max(c.high for c in contrasts), 0)
    bottom = 60 + _ROW * len(shown)
    x = Axis(low, high if high > low else low + 1, _LEFT, _LEFT + _WIDTH)
    y = Axis(0, max(1, len(shown)), 60, bottom)
    heading = f"loss less that of {rival} at its own best scale, nats per response token"
    elements = panel(x, Axis(0, 1, bottom, 60), heading, (rounded_ticks(x.low, x.high), []))
    elements.append(line((x(0), 60), (x(0), bottom), "#999999"))
    several = len(record.n_adapters) > 1
    for place, (one, contrast) in enumerate(zip(shown, contrasts, strict=True)):
        height, shade = y(place + 0.5), color(0 if one.kind == "merge" else 7)
        name = f"{one.library}: {one.contestant}" if several else one.contestant
        elements.append(text(_LEFT - 12, height + 4, name, anchor="end"))
        elements.append(line((x(contrast.low), height), (x(contrast.high), height), shade))
        elements.append(circle(x(contrast.value), height, 3, shade))
    elements.insert(0, text(20, 26, title, size=15, extra='font-weight="bold"'))
    return document(_LEFT + _WIDTH + 30, bottom + 34, title, elements)


def _curve_points(record: ExperimentRecord) -> list[tuple[str, PooledFigures, float]]:
    """Name of the line, figures, and place on the axis: a sweep's value, or the library's."""
    found = []
    for one in record.pooled:
        if one.x is None or REPORT not in one.loss:
            continue
        several = one.series is not None and len(record.n_adapters) > 1
        name = one.series or one.contestant
        found.append((f"{one.library}: {name}" if several else name, one, one.x))
    return found


def _curves(record: ExperimentRecord, title: str, x_label: str) -> str:
    points = _curve_points(record)
    names = list(dict.fromkeys(name for name, _, _ in points))
    marks = [] if any(one.series is None for _, one, _ in points) else _marks(record)
    values = [one.loss[REPORT].value for _, one, _ in points] + [value for _, value in marks]
    places = sorted({x for _, _, x in points})
    room = 0.05 * (max(values) - min(values)) or 0.05
    logarithmic = places[0] > 0 and places[-1] / places[0] > 8
    x = Axis(places[0], places[-1], 70, 520, logarithmic)
    y = Axis(min(values) - room, max(values) + room, 360, 60)
    elements = panel(x, y, "loss, nats per response token", (places, rounded_ticks(y.low, y.high)))
    for name, value in marks:
        elements.append(line((70, y(value)), (520, y(value)), "#999999", extra='stroke-dasharray="4 3"'))
        elements.append(text(526, y(value) + 4, name, size=10))
    for index, name in enumerate(names):
        mine = sorted((at, one.loss[REPORT].value) for given, one, at in points if given == name)
        drawn = [(x(at), y(value)) for at, value in mine]
        elements += [polyline(drawn, color(index))] if len(drawn) > 1 else []
        elements += [circle(px, py, 3, color(index)) for px, py in drawn]
        elements += _legend(index, name)
    elements.append(text(295, 398, x_label, anchor="middle"))
    elements.insert(0, text(20, 26, title, size=15, extra='font-weight="bold"'))
    return document(860, max(410, 80 + 18 * len(names)), title, elements)


def _marks(record: ExperimentRecord) -> list[tuple[str, float]]:
    """Contestants that do not move along the axis, as levels; those that would lie over each other, by the first."""
    fixed = sorted((one.loss[REPORT].value, one.contestant) for one in record.pooled if one.x is None)
    gap = 0.02 * (fixed[-1][0] - fixed[0][0]) if fixed else 0
    kept = fixed[:1] + [after for before, after in pairwise(fixed) if after[0] - before[0] > gap]
    return [(name, value) for value, name in kept]


def _scales(record: ExperimentRecord, title: str) -> str:
    first = next(cell for cell in record.cells if len(cell.losses_by_scale) > 5)
    shown = [
        (cell.contestant, sorted((float(scale), value) for scale, value in cell.losses_by_scale.items()))
        for cell in record.cells
        if (cell.library, cell.seed) == (first.library, first.seed) and len(cell.losses_by_scale) > 2
    ]
    lowest = min(value for _, path in shown for _, value in path)
    # Far too large a scale has losses that would flatten everything else.
    highest = min(max(value for _, path in shown for _, value in path), max(p[0][1] for _, p in shown) + 0.15)
    scales = [scale for _, path in shown for scale, _ in path]
    x = Axis(min(scales), max(scales), 70, 520, True)
    y = Axis(lowest - 0.01, highest + 0.01, 360, 60)
    ticks = [tick for tick in (0.03, 0.1, 0.3, 1, 3, 10, 30) if x.low <= tick <= x.high]
    elements = panel(x, y, "loss on the rows that choose scales", (ticks, rounded_ticks(y.low, y.high)))
    for index, (name, path) in enumerate(shown):
        points = [(x(scale), y(value)) for scale, value in path if value <= highest]
        elements += [polyline(points, color(index))] if len(points) > 1 else []
        elements += [circle(px, py, 2, color(index)) for px, py in points]
        elements += _legend(index, name)
    elements.append(text(295, 398, "scale of the merge", anchor="middle"))
    elements.insert(
        0, text(20, 26, f"{title}: {first.library}, seed {first.seed}", size=15, extra='font-weight="bold"')
    )
    return document(860, max(410, 80 + 18 * len(shown)), title, elements)


def _legend(index: int, name: str) -> list[str]:
    return [circle(640, 66 + 18 * index, 4, color(index)), text(650, 70 + 18 * index, name)]
