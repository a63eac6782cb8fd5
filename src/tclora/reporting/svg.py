"""Small pictures as SVG text: no package is needed, equal figures make equal bytes, and every browser shows them.

In: numbers and plain text. Out: SVG elements as text. Text of unknown origin is escaped; coordinates have one digit.
Refused: nothing.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tclora.errors import printable

__all__ = ["Axis", "circle", "color", "document", "line", "panel", "polyline", "rounded_ticks", "text"]

# Colors that can be told apart with any color vision: Okabe and Ito 2008 (yellow darkened for white paper), then Tol.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8a000", "#56b4e9", "#e69f00", "#404040")
_COLORS += ("#332288", "#882255", "#117733", "#dd7766", "#661100", "#8899aa")
# Whole numbers are numbers too; `float` alone refuses them where annotations are checked.
Number = float | int

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Axis:
    """From the figures of a range to the pixels of another."""

    low: Number
    high: Number
    first: Number
    last: Number
    logarithmic: bool = False

    def __call__(self, value: Number) -> float:
        """The pixel of a figure."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low) if high > low else 0.5
        return self.first + share * (self.last - self.first)

    def _scaled(self, value: Number) -> float:
        return math.log(value) if self.logarithmic else float(value)


def color(index: int) -> str:
    """The color of a cluster; beyond those listed, hues that follow each other far apart."""
    if index < len(_COLORS):
        return _COLORS[index]
    hue, dark = (index * _GOLDEN) % 1.0, 0.42 + 0.16 * (index % 2)
    red, green, blue = colorsys.hls_to_rgb(hue, dark, 0.65)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def document(width: int, height: int, title: str, elements: Sequence[str]) -> str:
    """A whole picture on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">'
    )
    paper = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{_safe(title)}</title>", paper, *elements, "</svg>"]) + "\n"


def circle(x: Number, y: Number, radius: Number, fill: str, *, extra: str = "") -> str:
    """A dot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}"{" " if extra else ""}{extra}/>'


def line(start: tuple[Number, Number], end: tuple[Number, Number], stroke: str, *, extra: str = "") -> str:
    """A straight line."""
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} stroke="{stroke}"{" " if extra else ""}{extra}/>'


def polyline(points: Sequence[tuple[Number, Number]], stroke: str, *, extra: str = "") -> str:
    """Points joined by lines."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{stroke}"{" " if extra else ""}{extra}/>'


def text(x: Number, y: Number, words: str, *, size: int = 11, anchor: str = "start", extra: str = "") -> str:
    """Plain text; whatever it holds, it is shown and not read as markup."""
    given = extra if "fill=" in extra else f'fill="#333333" {extra}'.rstrip()
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {given}>{_safe(words)}</text>'


def panel(x: Axis, y: Axis, title: str, ticks: tuple[Sequence[Number], Sequence[Number]]) -> list[str]:
    """A frame with a title, ticks and a grid; `ticks` are those of the x and of the y axis."""
    left, right, bottom, top = x.first, x.last, y.first, y.last
    found = [text(left, top - 8, title, size=12, extra='font-weight="bold"')]
    for value in ticks[1]:
        found.append(line((left, y(value)), (right, y(value)), "#e4e4e4"))
        found.append(text(left - 6, y(value) + 4, f"{value:g}", anchor="end"))
    for value in ticks[0]:
        found.append(line((x(value), bottom), (x(value), bottom + 4), "#999999"))
        found.append(text(x(value), bottom + 16, f"{value:g}", anchor="middle"))
    return [*found, line((left, bottom), (right, bottom), "#999999")]


def rounded_ticks(low: Number, high: Number, about: int = 4) -> list[Number]:
    """Round figures between two others, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _safe(words: str) -> str:
    return escape(printable(" ".join(words.split())))
