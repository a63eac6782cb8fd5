"""What a verification found, as rows of a short table for the terminal and the model card.

In: a `VerifiedMerge`, or its JSON. Out: rows of check, what was found, what is allowed; Markdown for the card.
"""

from collections.abc import Mapping

from tclora.errors import printable
from tclora.pipeline.merges.verify import IDENTITY_TOLERANCE, VerifiedMerge
from tclora.records import from_json

__all__ = ["HEADER", "verified_markdown", "verified_rows"]

HEADER = ("check", "found", "allowed")


def verified_rows(verified: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """One row per check, from the `verified` section of a merge's record."""
    found = from_json(VerifiedMerge, dict(verified))
    rows = [
        (f"{check.adapter} alone at weight 1", f"{check.relative_error:.1e}", f"{IDENTITY_TOLERANCE:.0e}")
        if check.relative_error is not None
        else (f"{check.adapter} alone at weight 1", "no setting of the method holds it", "")
        for check in found.identity
    ]
    file, model = found.file, found.model
    rows.append(
        (f"file against {file.against}, worst of {file.n_modules}", f"{file.relative_error:.1e}", f"{file.bound:.1e}")
    )
    spread = f"{model.min:.3g} / {model.median:.3g} / {model.worst:.3g}"
    rows.append(("error of the method's model: min / median / worst", spread, ""))
    if found.forward is not None:
        forward = found.forward
        hand = (f"{forward.against_hand:.1e}", f"{forward.allowed:.1e}")
        rows.append(("logits in PEFT against the base plus the merged deltas", *hand))
        if forward.against_sources is not None:
            rows.append(
                ("logits in PEFT against the base plus the sources' deltas", f"{forward.against_sources:.1e}", "")
            )
        rows.append(("change of the logits by the merge", f"{forward.effect:.1e}", ""))
    return rows


def verified_markdown(verified: Mapping[str, object]) -> str:
    """The section of the model card."""
    rows = [tuple(printable(cell).replace("|", "\\|") for cell in row) for row in verified_rows(verified)]
    lines = ["", "## Verified", "", "| " + " | ".join(HEADER) + " |", "|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
