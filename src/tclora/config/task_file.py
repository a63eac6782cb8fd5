"""A user's own evaluation task as its YAML file states it.

In: the path of a file. Out: a frozen `TaskFile`; paths in it count from the folder of the file, and only they may hold
`~` and `$VARIABLES`, so that a prompt may hold a `$`. Refused: unknown keys (with the nearest known one), keys that do
not go with the kind of task, numbers out of range.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tclora.config.load import parse_yaml, validate
from tclora.errors import ConfigError

__all__ = ["TaskFields", "TaskFile", "load_task_file"]

_MAX_BYTES = 1_000_000
_GENERATION_KEYS = ("max_new_tokens", "stop")


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskFields(_Keys):
    """Which columns of the data hold what; the prompt names its own columns."""

    answer: str = "answer"
    choices: str | tuple[str, ...] = "choices"
    """One column with a list, or one column for each choice."""
    id: str | None = None
    """None: items are numbered in the order of the file."""
    group: str | None = None
    """A part of the task that gets figures of its own."""


class TaskFile(_Keys):
    """One task: data, prompt and how answers are scored."""

    kind: Literal["choice", "exact_match", "rouge", "numeric", "loss"]
    path: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1)] | None = None
    """The text before the answer, with `{column}` for the text of a column; `{{` and `}}` are braces."""
    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")] | None = None
    """None: the name of the YAML file."""
    fields: TaskFields = TaskFields()
    plain: bool = True
    """False: the prompt is an instruction for the base's own template."""
    delimiter: str = " "
    """What stands between a plain prompt and its answer."""
    shots: Annotated[int, Field(ge=0)] | None = None
    fewshot: Annotated[str, Field(min_length=1)] | None = None
    """A file like the data, from which the shots are drawn."""
    limit: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 128
    stop: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """None: a line end for exact_match, an empty line for rouge and numeric, nothing in the base's template."""

    @model_validator(mode="after")
    def _keys_go_with_the_kind(self) -> "TaskFile":
        if self.prompt is None and self.kind != "loss":
            raise ValueError(f"a task of kind {self.kind} needs a prompt, e.g. 'Question: {{question}}\\nAnswer:'")
        if self.prompt is None and {"fields", "delimiter", "shots", "fewshot"} & self.model_fields_set:
            raise ValueError(
                "without a prompt the data are instruction examples, and fields, delimiter and shots do nothing"
            )
        idle = [key for key in _GENERATION_KEYS if key in self.model_fields_set and self.kind in ("choice", "loss")]
        if idle:
            raise ValueError(f"{idle[0]} does nothing in a task of kind {self.kind}, which generates no text")
        if "choices" in self.fields.model_fields_set and self.kind != "choice":
            raise ValueError(f"fields.choices does nothing in a task of kind {self.kind}")
        if self.shots and self.fewshot is None:
            raise ValueError("shots need fewshot, the file they are drawn from; test items are never shown")
        return self


def load_task_file(path: Path) -> TaskFile:
    """Read a task's YAML file, with its paths made absolute.

    Raises:
        ConfigError: names the file, the line or key, and the nearest known key.
    """
    if not path.is_file():
        raise ConfigError("there is no such task file", where=path, do="check the path, or see `tclora tasks`")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError("the task file is too large", where=path, expected=f"at most {_MAX_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the task file cannot be read as UTF-8", where=path, found=str(error)[:200]) from None
    task = validate(TaskFile, parse_yaml(text, where=str(path)), where=str(path))
    paths = {key: _beside(path, value) for key in ("path", "fewshot") if (value := getattr(task, key)) is not None}
    return task.model_copy(update={"name": task.name or path.stem, **paths})


def _beside(file: Path, name: str) -> str:
    return str(file.parent / os.path.expanduser(os.path.expandvars(name)))
