"""Pictures of planted adapters: recovery error over a setting, and the CP factor match over sweeps.

In: a `PlantedRecord`. Out: SVG texts by file name, and what each one shows; what was not measured has no picture.
"""

from collections.abc import Mapping, Sequence

from tclora.records.testbeds import PlantedRecord
from tclora.reporting.svg import Axis, circle, color, document, panel, polyline, rounded_ticks, text

__all__ = ["curves", "planted_pictures"]

KEEP = "keep"
Line = Sequence[tuple[float | int, float]]


def planted_pictures(record: PlantedRecord, title: str) -> tuple[dict[str, str], dict[str, str]]:
    """The pictures by file name, and what each one shows."""
    pictures: dict[str, str] = {}
    alt: dict[str, str] = {}
    settings = dict.fromkeys((one.grid, one.setting) for one in record.marginals)
    for grid, setting in list(settings)[:1]:
        lines: dict[str, list[tuple[float | int, float]]] = {}
        for one in record.marginals:
            if (one.grid, one.setting, one.truth) == (grid, setting, KEEP):
                lines.setdefault(one.contestant, []).append((one.value, one.best_error.value))
        pictures["recovery.svg"] = curves(title, lines, (setting.replace("_", " "), "recovery error, best scale"))
        alt["recovery.svg"] = f"Recovery error of every contestant over {setting.replace('_', ' ')}"
    if record.stability:
        lines = {}
        for one in record.stability:
            name = f"noise {one.noise:g}, {one.cp_rank} terms"
            lines.setdefault(name, []).append((one.sweeps, one.match_starts))
        words = ("sweeps", "factor match, mean of single starts")
        pictures["stability.svg"] = curves(title, lines, words, logarithmic=True)
        alt["stability.svg"] = "Factor match of single CP starts over sweeps"
    return pictures, alt


def curves(title: str, lines: Mapping[str, Line], words: tuple[str, str], *, logarithmic: bool = False) -> str:
    """Lines over a setting, with a legend; `words` name the two axes."""
    points = [point for one in lines.values() for point in one]
    places = sorted({x for x, _ in points})
    values = [y for _, y in points]
    room = 0.05 * (max(values) - min(values)) or 0.05
    x = Axis(places[0], places[-1], 70, 520, logarithmic)
    y = Axis(min(values) - room, max(values) + room, 360, 60)
    elements = [text(20, 26, title, size=15, extra='font-weight="bold"')]
    elements += panel(x, y, words[1], (places, rounded_ticks(y.low, y.high)))
    for index, (name, one) in enumerate(lines.items()):
        drawn = [(x(at), y(value)) for at, value in one]
        elements += [polyline(drawn, color(index))] if len(drawn) > 1 else []
        elements += [circle(px, py, 3, color(index)) for px, py in drawn]
        elements.append(circle(560, 66 + 18 * index, 4, color(index)))
        elements.append(text(570, 70 + 18 * index, name))
    elements.append(text(295, 398, words[0], anchor="middle"))
    return document(860, max(410, 80 + 18 * len(lines)), title, elements)
