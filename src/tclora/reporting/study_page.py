"""A study of clusterings as files: everything as JSON, the cells as CSV, one table and one plot.

In: a `StudyRecord`. Out: `study.json`, `cells.csv`, `study.md` and `study.svg` in a folder. A row of the table is one
encoder, clustering and number of clusters, in the mean over its seeds. Refused: nothing.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tclora.artifacts import write_bytes, write_json
from tclora.records import StudyAgreement, StudyCell, StudyRecord, to_json
from tclora.reporting.markdown import bullets
from tclora.reporting.markdown import table as markdown_table
from tclora.reporting.svg import Axis, circle, color, document, panel, polyline, rounded_ticks, text
from tclora.reporting.tables import Table
from tclora.reporting.wording import count, loss, number

__all__ = ["study_svg", "study_table", "write_study"]

_FIGURES = (
    "Clusters that were found, the smallest in training examples, balance (entropy of the sizes over its "
    "largest value), silhouette on a sample, purity and NMI against the task labels, and the agreement of "
    "seeds (adjusted Rand index) are means over seeds.",
    "Dev loss is in nats per response token, each dev example by the adapter of its cluster, with 95 % bootstrap "
    "percentiles over examples, of the first seed that was trained; less random is its difference from random "
    "clusters of the same sizes on the same examples. One interval in twenty between equals leaves out 0 by chance.",
    "Purity rises with the number of clusters whatever the algorithm: compare it at one number.",
)
_PLOTTED = (
    ("agreement of seeds (adjusted Rand index)", "ari"),
    ("purity against task labels", "purity"),
    ("dev loss, nats per response token", "loss"),
)


def write_study(folder: Path, record: StudyRecord) -> None:
    """Write the study's four files."""
    write_json(folder / "study.json", to_json(record))
    write_bytes(folder / "cells.csv", _csv(record).encode())
    write_bytes(folder / "study.svg", study_svg(record).encode())
    write_bytes(folder / "study.md", _page(record).encode())


def study_table(record: StudyRecord) -> Table:
    """One row for each encoder, clustering and number of clusters."""
    header = ["encoder", "clustering", "K", "clusters", "smallest", "balance", "silhouette", "purity", "NMI", "seeds"]
    rows = [
        [
            encoder,
            clustering,
            str(k),
            number(_mean(cell.n_found for cell in cells), 1),
            count(min(cell.smallest for cell in cells)),
            number(_mean(cell.balance for cell in cells)),
            number(_mean(cell.silhouette for cell in cells)),
            number(_mean(cell.purity for cell in cells)),
            number(_mean(cell.task_nmi for cell in cells)),
            number(_seed_agreement(record, encoder, clustering, k)),
            loss(_first(cells, "loss")),
            loss(_first(cells, "loss_less_random")),
        ]
        for (encoder, clustering, k), cells in _groups(record).items()
    ]
    return [*header, "dev loss", "less random"], rows


def study_svg(record: StudyRecord) -> str:
    """Three panels over the number of clusters: agreement of seeds, purity and dev loss; a line for each way."""
    ways = list(dict.fromkeys((cell.encoder, cell.clustering) for cell in record.cells))
    elements = [text(20, 26, f"{record.name}: ways to cluster", size=15, extra='font-weight="bold"')]
    for place, (title, figure) in enumerate(_PLOTTED):
        elements += _panel(record, title, figure, ways, (60 + 330 * place, 70))
    for place, (encoder, clustering) in enumerate(ways):
        x, y = 66 + 240 * (place % 4), 290 + 20 * (place // 4)
        elements += [circle(x, y - 4, 4, color(place)), text(x + 10, y, f"{encoder}, {clustering}", size=11)]
    return document(1040, 310 + 20 * ((len(ways) + 3) // 4), f"{record.name}: ways to cluster", elements)


def _panel(
    record: StudyRecord, title: str, figure: str, ways: Sequence[tuple[str, str]], corner: tuple[int, int]
) -> list[str]:
    curves = {way: _curve(record, way, figure) for way in ways}
    values = [y for curve in curves.values() for _, y in curve] or [0.0, 1.0]
    numbers = sorted({cell.n_clusters for cell in record.cells})
    room = 0.08 * (max(values) - min(values)) or 0.05
    x = Axis(numbers[0], max(numbers[-1], numbers[0] + 1), corner[0], corner[0] + 270)
    y = Axis(min(values) - room, max(values) + room, corner[1] + 170, corner[1])
    elements = panel(x, y, title, ([float(k) for k in numbers], rounded_ticks(y.low, y.high)))
    for place, way in enumerate(ways):
        points = [(x(k), y(value)) for k, value in curves[way]]
        elements += [polyline(points, color(place))] if len(points) > 1 else []
        elements += [circle(px, py, 3, color(place)) for px, py in points]
    if not any(curves.values()):
        elements.append(text(corner[0] + 10, corner[1] + 90, "not measured in this study", size=11))
    return elements


def _curve(record: StudyRecord, way: tuple[str, str], figure: str) -> list[tuple[int, float]]:
    found = []
    for (encoder, clustering, k), cells in _groups(record).items():
        if (encoder, clustering) != way:
            continue
        if figure == "ari":
            value = _seed_agreement(record, encoder, clustering, k)
        elif figure == "loss":
            score = _first(cells, "loss")
            value = None if score is None else score.value
        else:
            value = _mean(cell.purity for cell in cells)
        found += [] if value is None else [(k, value)]
    return sorted(found)


def _page(record: StudyRecord) -> str:
    header, rows = study_table(record)
    between = [
        [row.across, row.encoder or "every", row.clustering or "every", str(row.n_clusters), *_agreed(row)]
        for row in record.agreement
    ]
    parts = [
        f"# {record.name}: ways to cluster",
        f"{count(record.n_train)} training and {count(record.n_dev)} dev examples, {len(record.cells)} clusterings.",
        markdown_table(header, rows),
        "![Agreement of seeds, purity and dev loss over the number of clusters](study.svg)",
        bullets(_FIGURES),
        "## How far clusterings agree that differ in one thing",
        markdown_table(["across", "encoder", "clustering", "K", "ARI", "NMI", "pairs"], between)
        if between
        else "No two cells differ in one thing alone.",
        *([bullets(record.notes)] if record.notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def _agreed(row: StudyAgreement) -> list[str]:
    return [number(row.ari), number(row.nmi), str(row.n_pairs)]


def _csv(record: StudyRecord) -> str:
    rows = [to_json(cell) for cell in record.cells]
    names = [name for name in rows[0] if name not in ("loss", "loss_less_random")]
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    ends = [f"{score}_{end}" for score in ("loss", "loss_less_random") for end in _ENDS]
    writer.writerow([*names, *ends])
    for row in rows:
        scores = [(row[score] or {}).get(end) for score in ("loss", "loss_less_random") for end in _ENDS]
        writer.writerow([*(row[name] for name in names), *scores])
    return told.getvalue()


_ENDS = ("value", "low", "high", "n")


def _groups(record: StudyRecord) -> dict[tuple[str, str, int], list[StudyCell]]:
    groups: dict[tuple[str, str, int], list[StudyCell]] = {}
    for cell in record.cells:
        groups.setdefault((cell.encoder, cell.clustering, cell.n_clusters), []).append(cell)
    return groups


def _seed_agreement(record: StudyRecord, encoder: str, clustering: str, k: int) -> float | None:
    wanted = ("seeds", encoder, clustering, k)
    rows = (row for row in record.agreement if (row.across, row.encoder, row.clustering, row.n_clusters) == wanted)
    return next((row.ari for row in rows), None)


def _first(cells: Sequence[StudyCell], name: str):
    return next((score for cell in cells if (score := getattr(cell, name)) is not None), None)


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
