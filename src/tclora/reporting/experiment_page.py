"""The page of an experiment, of any kind: the question, the answer, tables, pictures, and what it does not show.

In: an `ExperimentPage`, whose answer was made from its figures by rule. Out: `README.md`, `results.json` and the
pictures in a folder; equal results give equal bytes. Refused: nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tclora.artifacts import write_bytes
from tclora.reporting.markdown import bullets, code_block, escape, table

__all__ = ["PAGE_NAME", "RESULTS_NAME", "ExperimentPage", "PageTable", "page_markdown", "write_experiment"]

PAGE_NAME, RESULTS_NAME = "README.md", "results.json"


@dataclass(frozen=True)
class PageTable:
    """A table under a heading, with sentences above and below it. Without a heading it follows the answer at once."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    heading: str = ""
    before: str = ""
    legend: Sequence[str] = ()


@dataclass(frozen=True)
class ExperimentPage:
    """One experiment as it is shown. `pictures` are SVG texts by file name, `alt` says what each one shows."""

    title: str
    question: str
    answer: str
    tables: Sequence[PageTable]
    limits: Sequence[str]
    how: Sequence[str]
    results: Mapping[str, Any]
    command: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)
    alt: Mapping[str, str] = field(default_factory=dict)


def page_markdown(page: ExperimentPage) -> str:
    """The page; every figure on it stands in the results."""
    first, others = page.tables[:1], page.tables[1:]
    parts = [
        f"# {escape(page.title)}",
        f"**Question.** {escape(page.question)}",
        f"**Answer.** {escape(page.answer)}",
        *(part for one in first for part in _table_parts(one)),
        *(f"![{escape(page.alt.get(name, name))}]({name})" for name in page.pictures),
        *(part for one in others for part in _table_parts(one)),
        "## What this does not show",
        bullets(page.limits),
        "## How it was run",
        *([code_block(page.command, "sh")] if page.command else []),
        *(escape(sentence) for sentence in page.how),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_experiment(folder: Path, page: ExperimentPage) -> None:
    """Write the page, its results and its pictures; what else lies in the folder is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in page.pictures.items():
        write_bytes(folder / name, picture.encode())
    results = {"question": page.question, "answer": page.answer, "command": page.command, **page.results}
    write_bytes(folder / RESULTS_NAME, (json.dumps(results, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(folder / PAGE_NAME, page_markdown(page).encode())


def _table_parts(one: PageTable) -> list[str]:
    shown = table(one.header, one.rows) if one.rows else "Nothing was measured."
    heading = f"## {escape(one.heading)}" if one.heading else ""
    return [heading, escape(one.before), shown, bullets(one.legend)]
