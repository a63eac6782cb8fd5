"""Dataclass records to plain JSON values and back, checked on the way in."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from tclora.errors import ArtifactError

__all__ = ["from_json", "to_json"]

Record = TypeVar("Record")


def to_json(record: Any) -> Any:
    """The record as dicts, lists and scalars."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(value) for value in record]
    return record


def from_json(kind: type[Record], data: Any) -> Record:
    """Build a record of `kind`; a missing or unknown field raises `ArtifactError`."""
    if not isinstance(data, dict):
        raise ArtifactError(f"a {kind.__name__} is not a JSON object", found=type(data).__name__)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ArtifactError(f"a {kind.__name__} has unknown fields", found=", ".join(unknown))
    try:
        return kind(**{name: _value(hints[name], value) for name, value in data.items()})
    except TypeError as error:
        raise ArtifactError(f"a {kind.__name__} cannot be read", found=str(error)) from None


def _value(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _value(arguments[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    return float(value) if hint is float else value
