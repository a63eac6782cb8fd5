"""The model card of a merged folder: what was merged, how, from what exactly, and how well it went.

The text depends on the request and its result only, not on the time or the machine, so that the same command writes
the same bytes.
"""

from tclora.errors import printable
from tclora.merging.identity import identity_through
from tclora.merging.merge import MergeResult
from tclora.merging.method import MERGE_METHODS, recorded_params

__all__ = ["merge_card"]


def merge_card(result: MergeResult, *, dtype: str, command: str | None = None) -> str:
    """The card as Markdown with the front matter that model hubs read."""
    entry = MERGE_METHODS.entry(result.method)
    lines = [
        *_front_matter(result),
        f"# {_text(result.adapter.name)}",
        "",
        f"One LoRA adapter, merged from {len(result.plan.adapters)} by tclora with the method `{result.method}`.",
        f"{entry.summary} Source: {entry.source}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_text(value)} |" for key, value in _facts(result, dtype).items()),
        "",
        "## Adapters",
        "",
        "| adapter | id | revision | weight | sha256 of the weights |",
        "|---|---|---|--:|---|",
        *_sources(result),
    ]
    notes = [f"- {_text(note)}" for note in result.notes]
    lines += ["", "## Notes", "", *notes] if notes else []
    lines += ["", "## Command", "", "```", printable(command).replace("`", "'"), "```"] if command else []
    return "\n".join(lines) + "\n"


def _front_matter(result: MergeResult) -> list[str]:
    base = result.adapter.base_model
    named = [f"base_model: {_yaml(base)}"] if base else []
    return ["---", *named, "library_name: peft", "tags:", "- lora", "- merge", "- tclora", "---", ""]


def _facts(result: MergeResult, dtype: str) -> dict[str, object]:
    params = ", ".join(f"{key}={value}" for key, value in recorded_params(result.params).items())
    other = identity_through(result.method)
    through = f", through {other}" if other else ""
    return {
        "base model": result.adapter.base_model or "not stated by the adapters",
        "base revision": result.adapter.base_revision or "not stated by the adapters",
        "parameters": params or "none",
        "scale": result.scale,
        "modules": result.plan.n_modules,
        "rank": result.out_rank,
        "dtype": dtype,
        "relative error of the method's model": f"{result.relative_error:.6g}",
        f"identity check (one adapter at weight 1{through})": f"{result.identity_error:.1e}",
    }


def _sources(result: MergeResult) -> list[str]:
    rows = zip(result.plan.adapters, result.plan.adapter_weights, result.digests, strict=True)
    return [
        f"| {_text(adapter.name)} | {_text(adapter.source.id if adapter.source else 'in memory')} "
        f"| {_text((adapter.source.revision if adapter.source else None) or '–')} | {weight:.6g} | `{digest}` |"
        for adapter, weight, digest in rows
    ]


def _text(value: object) -> str:
    """Safe inside a Markdown table cell."""
    text = printable(" ".join(str(value).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _yaml(value: str) -> str:
    return '"' + printable(" ".join(value.split())).replace("\\", "\\\\").replace('"', '\\"') + '"'
