"""The model card of a copy: what it is a copy of, what was changed, and what that cost.

The text depends on the adapter and the request only, so that equal requests write equal bytes.
"""

from collections.abc import Mapping, Sequence

from tclora.adapters import Adapter, weights_digest
from tclora.errors import printable

__all__ = ["fix_card"]


def fix_card(adapter: Adapter, rank: int, dtype: str, fixed: Sequence[str], errors: Mapping[str, float]) -> str:
    """The card as Markdown with the front matter that model hubs read."""
    base = [f"base_model: {_yaml(adapter.base_model)}"] if adapter.base_model else []
    worst = max(errors, key=lambda path: errors[path], default=None)
    lost = "nothing was cut"
    if worst is not None:
        lost = f"{len(errors)} modules were cut; the largest relative error is {errors[worst]:.3g}, in {_text(worst)}"
    lines = [
        *("---", *base, "library_name: peft", "tags:", "- lora", "- tclora", "---", ""),
        f"# {_text(adapter.name)}",
        "",
        "A copy written by tclora so that servers load it: the scale is folded into the factors, every module has one",
        "rank, and the config holds plain settings only.",
        "",
        *("| | |", "|---|---|"),
        f"| copy of | {_text(adapter.source.id if adapter.source else 'an adapter in memory')} |",
        f"| sha256 of its weights | `{weights_digest(adapter)}` |",
        f"| rank | {rank} |",
        f"| dtype | {dtype} |",
        f"| truncation | {lost} |",
    ]
    lines += ["", "## Put right", "", *(f"- {_text(line)}" for line in fixed)] if fixed else []
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    text = printable(" ".join(value.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _yaml(value: str) -> str:
    return '"' + printable(" ".join(value.split())).replace("\\", "\\\\").replace('"', '\\"') + '"'
