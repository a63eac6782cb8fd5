"""How figures are written: always the same digits, always with their interval, never NaN as a number."""

import math
from collections.abc import Sequence

from tclora.records import Score

__all__ = [
    "algorithm_name",
    "clip",
    "count",
    "listing",
    "loss",
    "number",
    "overlap",
    "percent",
    "seconds",
    "share",
    "size",
    "small",
]

NONE = "-"


_ALGORITHMS = {
    "kmeans": "k-means",
    "spherical_kmeans": "Spherical k-means",
    "minibatch_kmeans": "Mini-batch k-means",
    "agglomerative": "Agglomerative clustering",
    "hdbscan": "HDBSCAN",
    "spectral": "Spectral clustering",
    "task": "Grouping by task label",
    "random": "Random grouping",
    "mbc": "Model-based clustering",
}


def algorithm_name(name: str) -> str:
    """A clustering algorithm as a sentence begins with it."""
    return _ALGORITHMS.get(name, name)


def number(value: float | None, digits: int = 3) -> str:
    """A plain number, or a dash where there is none."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else NONE


def small(value: float) -> str:
    """A number of unknown magnitude, to three significant digits."""
    return f"{value:.3g}" if math.isfinite(value) else NONE


def loss(score: Score | None) -> str:
    """A loss in nats per response token, with its interval."""
    return NONE if score is None else f"{number(score.value)} [{number(score.low)}, {number(score.high)}]"


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f}%"


def share(score: Score | None) -> str:
    """A share as a percentage, with its interval."""
    return NONE if score is None else f"{percent(score.value)} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def count(value: int) -> str:
    """A count with thousands marked."""
    return f"{value:,}"


def size(n_bytes: int) -> str:
    """Bytes in binary units."""
    return f"{n_bytes / 2**20:,.1f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:,.2f} GiB"


def seconds(wall_s: float) -> str:
    """A duration; long ones in hours, minutes and seconds."""
    if wall_s < 120:
        return f"{wall_s:.2f} s" if wall_s < 10 else f"{wall_s:.1f} s"
    minutes, rest = divmod(round(wall_s), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def clip(text: str, n_characters: int) -> str:
    """Cut a text on one line, with dots where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= n_characters else line[: n_characters - 3].rstrip() + "..."


def listing(words: Sequence[str]) -> str:
    """Words as a sentence would list them."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def overlap(a: Score, b: Score) -> bool:
    """Say whether two intervals share a point."""
    return a.low <= b.high and b.low <= a.high
