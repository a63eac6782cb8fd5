"""Plain values as they arrive from the jail.

In: JSON data, which the program may have written itself. Out: Python values of built-in types only, made here, so that
no method of the program's takes part in a comparison. Refused: anything that is not the encoding of such a value.
"""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tclora.sandbox.inside.plain import MAX_ITEMS
from tclora.sandbox.outcome import Opaque

__all__ = ["from_plain", "plain_dict"]


def from_plain(data: object) -> object:
    """One value from its JSON form, as `inside.plain.to_text` writes it.

    Raises:
        ValueError: it is no such form.
    """
    if isinstance(data, list):
        return [from_plain(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError("an answer's object has not one tag")
    [(tag, content)] = data.items()
    if tag not in _READERS:
        raise ValueError("an answer's object has an unknown tag")
    try:
        return _READERS[tag](content)
    except (TypeError, ArithmeticError, AttributeError, RecursionError) as error:
        raise ValueError(f"an answer's {tag} is malformed") from error


def plain_dict(content: object) -> dict:
    """A dict from its keys and values, which stand in turn in one list."""
    items = _listed(content)
    if len(items) % 2:
        raise ValueError("an answer's dict lacks a value")
    return dict(zip(items[::2], items[1::2], strict=True))


def _listed(content: object) -> list:
    if not isinstance(content, list):
        raise ValueError("an answer's container is no list")
    return [from_plain(item) for item in content]


def _real(content: str) -> float:
    # Only these three are tagged, and float() would take much else.
    if content not in ("nan", "inf", "-inf"):
        raise ValueError("an answer's float is malformed")
    return float(content)


def _complex(content: list) -> complex:
    real, imaginary = content
    return complex(float(real), float(imaginary))


def _range(content: list) -> range:
    start, stop, step = content
    found = range(int(start, 16), int(stop, 16), int(step, 16))
    # A test may make a list of it, in this process.
    if len(found) > MAX_ITEMS:
        raise ValueError("an answer's range is too long")
    return found


def _decimal(content: str) -> Decimal:
    found = Decimal(content)
    # As an integer or a fraction it would be written out, in this process.
    if found.is_finite() and abs(found.adjusted()) > 10_000:
        raise ValueError("an answer's decimal is too large")
    return found


def _fraction(content: list) -> Fraction:
    numerator, denominator = content
    return Fraction(int(numerator, 16), int(denominator, 16))


def _opaque(content: list) -> Opaque:
    name, truth = content
    return Opaque(str(name)[:100], bool(truth))


_READERS: dict[str, Callable[[Any], object]] = {
    "int": lambda content: int(content, 16),
    "float": _real,
    "complex": _complex,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": _range,
    "fraction": _fraction,
    "decimal": _decimal,
    "opaque": _opaque,
    "dict": plain_dict,
    "tuple": lambda content: tuple(_listed(content)),
    "set": lambda content: set(_listed(content)),
    "frozenset": lambda content: frozenset(_listed(content)),
    "deque": lambda content: deque(_listed(content)),
    "iterator": lambda content: iter(_listed(content)),
    "dict_keys": lambda content: dict.fromkeys(_listed(content)).keys(),
    "dict_values": lambda content: dict(enumerate(_listed(content))).values(),
    "dict_items": lambda content: dict(_listed(content)).items(),
}
