"""A run as two files and pictures: `report.json`, complete, for programs; `report.md`, for people.

In: a `RunReport`. Out: a folder. Both files are written whole or not at all, and equal reports make equal bytes.
JSON has no word for NaN and infinity: such a figure is written as null and its place is listed in `not_finite`,
so that one broken figure does not cost the report. Refused: values that are no plain data.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tclora.artifacts import write_bytes
from tclora.errors import ArtifactError
from tclora.records import to_json
from tclora.reporting.answer import answer, limits, question
from tclora.reporting.cluster_sections import choice_sections, map_sections, pictures
from tclora.reporting.markdown import bullets, code_block, escape, table
from tclora.reporting.paired import PAIRED_NOTE, paired_cluster_table, paired_table
from tclora.reporting.run_report import RunReport
from tclora.reporting.tables import (
    Table,
    cluster_loss_table,
    cluster_match_table,
    cluster_table,
    merge_table,
    results_table,
    training_table,
)
from tclora.reporting.wording import algorithm_name, seconds

__all__ = ["render_json", "render_markdown", "write_report"]

FORMAT = "tclora.report/1"
_MERGE_NOTE = (
    "Relative error is that of the method's own model of the stack, 0 for an exact method. Identity error is how far "
    "the method, given one adapter at weight 1, is from returning it."
)


def write_report(folder: Path, report: RunReport) -> None:
    """Write `report.json`, `report.md` and its pictures into `folder`, replacing earlier ones.

    Raises:
        ArtifactError: the report holds something that is no plain data; names its place.
    """
    machine_readable, readable = render_json(report), render_markdown(report)
    write_bytes(folder / "report.json", machine_readable.encode())
    write_bytes(folder / "report.md", readable.encode())
    for name, picture in pictures(report).items():
        write_bytes(folder / name, picture.encode())


def render_json(report: RunReport) -> str:
    """The whole report as strict JSON; keys keep the order of the records."""
    not_finite: list[str] = []
    plain = _plain(to_json(report), "", not_finite)
    # Thousands of points that only a picture is made of; they are in the run's `cluster-map` folder.
    plain.pop("cluster_map")
    content = {"format": FORMAT, **plain, "not_finite": not_finite}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def render_markdown(report: RunReport) -> str:
    """The report as Markdown: answer first, then results, then how they were made, then what they do not show."""
    sections = [
        f"# {escape(report.name)}",
        f"**{escape(question(report))}**",
        escape(answer(report)),
        *_result_sections(report),
        *_making_sections(report),
        *_run_sections(report),
        "## What this does not show",
        bullets(limits(report)),
    ]
    return "\n\n".join(sections) + "\n"


def _result_sections(report: RunReport) -> list[str]:
    record = report.evaluation
    caption = (
        f"Base {record.base}, {record.template} template. Loss in nats per response token, weighted by tokens; lower "
        "is better. Shares in percent; higher is better. In brackets 95 % intervals over examples: bootstrap "
        "percentiles for the loss, Wilson for shares. Routing takes each item's answer from its cluster's adapter."
    )
    sections = ["## Results", table(*results_table(report)), escape(caption)]
    sections += _section("Loss by cluster", cluster_loss_table(report))
    sections += _section("Exact match by cluster", cluster_match_table(report))
    paired = _section("Paired comparison", paired_table(report))
    sections += [*paired, escape(PAIRED_NOTE)] if paired else []
    return sections + _section("Paired comparison by cluster", paired_cluster_table(report))


def _making_sections(report: RunReport) -> list[str]:
    encode, clusters = report.encode, report.clusters
    caption = (
        f"{encode.n_train:,} training and {encode.n_dev:,} development examples, embedded by "
        f"{encode.model or encode.encoder} ({encode.text}, {encode.d_embed} dimensions). "
        f"{algorithm_name(clusters.algorithm)} with {clusters.n_clusters} clusters, fitted on "
        f"{clusters.sample_size:,} examples; mean squared distance to the centroid {clusters.inertia:.4f}."
    )
    # Development examples go to the nearest centroid unless something else is said.
    if clusters.dev_assignment != "nearest centroid":
        caption += f" Development examples were assigned {clusters.dev_assignment}."
    caption += "".join(f" {note[:1].upper()}{note[1:]}." for note in clusters.notes)
    sections = choice_sections(report)
    sections += ["## Clusters", escape(caption), *map_sections(report), table(*cluster_table(report))]
    sections += _section("Training", training_table(report))
    merges = _section("Merges", merge_table(report))
    return sections + ([*merges, _MERGE_NOTE] if merges else [])


def _run_sections(report: RunReport) -> list[str]:
    timings = [[name, seconds(wall_s)] for name, wall_s in report.wall_s.items()]
    facts = [[name, value] for facts in (report.versions, report.machine) for name, value in facts.items()]
    config = json.dumps(_plain(report.config, "config", []), indent=2, ensure_ascii=False)
    sections = ["## What was run"]
    sections += [code_block(report.command, "sh")] if report.command else []
    sections += [table(["stage", "time"], timings)] if timings else []
    sections += [table(["", "version or fact"], facts)] if facts else []
    sections += [code_block(config, "json")]
    return sections + (["## Notes", bullets(report.notes)] if report.notes else [])


def _section(title: str, content: Table) -> list[str]:
    header, rows = content
    return [f"## {title}", table(header, rows)] if rows and len(header) > 1 else []


def _plain(value: Any, where: str, not_finite: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}".lstrip("."), not_finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]", not_finite) for index, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        not_finite.append(where)
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ArtifactError(
        "a report holds something that is no plain data",
        where=where,
        found=type(value).__name__,
        expected="text, numbers, lists and mappings",
    )
