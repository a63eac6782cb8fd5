"""The README of an export: how to train, where the adapters must lie, and how they come back."""

from collections.abc import Callable

from tclora.pipeline.exports.record import ExportRecord

__all__ = ["export_readme"]


def export_readme(record: ExportRecord, command: Callable[[str], str], install: str) -> str:
    """Markdown for a person who has only this folder."""
    jobs = "".join(
        f"| {job['name']} | {job['n_train']} | {job['n_dev']} | `{job['folder']}` |\n" for job in record.adapters
    )
    notes = "".join(f"- {note}\n" for note in record.notes)
    first = record.adapters[0]["name"]
    return f"""# Jobs for {record.trainer}

Base: `{record.base}`. One LoRA for each cluster. Prompts: {_prompts(record)}. Loss on the responses alone.

```sh
{install}
{command(first)}      # one cluster, in this folder
./run_all.sh          # all that have no adapter yet
```

Batch sizes are for one device; on several, lower the accumulation steps in proportion.

| cluster | training rows | dev rows | adapter expected in |
|---|--:|--:|---|
{jobs}
When all are there, make them a library, on the machine that holds the run:

```sh
tclora library import THIS_FOLDER -o LIBRARY
```

{"## Notes" + chr(10) * 2 + notes if notes else ""}"""


def _prompts(record: ExportRecord) -> str:
    if record.prompts == "messages":
        return "chat messages, put into the tokenizer's template by the trainer"
    return f"finished text in the {record.template} template, special tokens included"
