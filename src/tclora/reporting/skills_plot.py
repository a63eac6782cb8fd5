"""A picture of joint questions: exact match of every contestant with its interval, one panel for each size.

In: a `SkillsRecord`. Out: SVG text.
"""

from collections.abc import Sequence

from tclora.config.experiment_skills import CONTROLS
from tclora.records.testbeds import SkillFigures, SkillsRecord
from tclora.reporting.svg import Axis, circle, color, document, line, panel, text

__all__ = ["skills_picture"]

_ROW, _LEFT, _WIDTH = 18, 190, 420


def skills_picture(record: SkillsRecord, title: str) -> str:
    """Panels one below the other, the best contestant first; controls are grey."""
    elements, top = [text(20, 26, title, size=15, extra='font-weight="bold"')], 60
    for size in dict.fromkeys(one.size for one in record.figures):
        mine = [one for one in record.figures if one.size == size and not one.pair]
        mine.sort(key=lambda one: (-one.exact.value, one.contestant))
        elements += _panel(mine, f"exact match on joint questions, {size}", top)
        top += _ROW * len(mine) + 70
    return document(_LEFT + _WIDTH + 30, top - 20, title, elements)


def _panel(figures: Sequence[SkillFigures], heading: str, top: int) -> list[str]:
    bottom = top + _ROW * len(figures)
    x, y = Axis(0, 1, _LEFT, _LEFT + _WIDTH), Axis(0, max(1, len(figures)), top, bottom)
    found = panel(x, Axis(0, 1, bottom, top), heading, ([0, 0.25, 0.5, 0.75, 1], []))
    for place, one in enumerate(figures):
        height, shade = y(place + 0.5), color(7 if one.contestant in CONTROLS else 0)
        found.append(text(_LEFT - 12, height + 4, one.contestant, anchor="end"))
        found.append(line((x(one.exact.low), height), (x(one.exact.high), height), shade))
        found.append(circle(x(one.exact.value), height, 3, shade))
    return found
