"""Values on their way out of the jail, as JSON text.

In: whatever the program returned. Out: text. Subclasses are written as the built-in type they extend, so no method of
the program's leaves with them; what is no plain data is written as the name of its type and its truth.

`json` is not used: it loads `re`, which costs 10 ms at every start.
"""

from itertools import islice

try:
    from _json import encode_basestring_ascii as _quoted
except ImportError:  # an interpreter without the C accelerator
    from json.encoder import py_encode_basestring_ascii as _quoted

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "to_text"]

MAX_DEPTH = 50
MAX_ITEMS = 1_000_000
"""The most items that one container, and one iterator, may hold."""

_ITERATORS = {
    "list_iterator", "tuple_iterator", "range_iterator", "map", "filter", "zip", "enumerate", "reversed",
    "list_reverseiterator", "generator", "chain", "islice", "accumulate", "permutations", "combinations", "product",
    "dict_keyiterator", "dict_valueiterator", "dict_itemiterator", "set_iterator", "str_iterator",
    "str_ascii_iterator", "takewhile", "dropwhile", "starmap", "groupby", "compress", "filterfalse", "zip_longest",
}  # fmt: skip


def to_text(value: object, depth: int = 0) -> str:
    """One value as JSON.

    None, bool, str, small int, finite float and list are written as themselves; all else as an object with one key,
    the tag.

    Raises:
        ValueError: it is deeper or larger than an answer may be.
    """
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return _real(value)
    if depth > MAX_DEPTH:
        raise ValueError(f"the answer is nested more than {MAX_DEPTH} deep")
    return _container(value, depth + 1)


def _integer(value: int) -> str:
    if -(2**53) < value < 2**53:
        return int.__repr__(value)
    # Hexadecimal: Python refuses to read or write more than 4,300 decimal digits.
    return f'{{"int":"{int.__format__(value, "x")}"}}'


def _real(value: float) -> str:
    text = float.__repr__(value)
    return f'{{"float":"{text}"}}' if text in ("nan", "inf", "-inf") else text


def _container(value: object, depth: int) -> str:
    if isinstance(value, list):
        return _items(list.__iter__(value), depth)
    if isinstance(value, dict):
        pairs = (pair for item in dict.items(value) for pair in item)
        return f'{{"dict":{_items(pairs, depth)}}}'
    if isinstance(value, tuple):
        return f'{{"tuple":{_items(tuple.__iter__(value), depth)}}}'
    if isinstance(value, set):
        return f'{{"set":{_items(set.__iter__(value), depth)}}}'
    if isinstance(value, frozenset):
        return f'{{"frozenset":{_items(frozenset.__iter__(value), depth)}}}'
    return _rarer(value, depth)


def _rarer(value: object, depth: int) -> str:
    if isinstance(value, bytes | bytearray):
        tag = "bytes" if isinstance(value, bytes) else "bytearray"
        return f'{{"{tag}":"{bytes(value).hex()}"}}'
    if isinstance(value, complex):
        return f'{{"complex":["{float.__repr__(value.real)}","{float.__repr__(value.imag)}"]}}'
    if type(value) is range and -MAX_ITEMS <= (value.stop - value.start) // value.step <= MAX_ITEMS:
        return f'{{"range":[{",".join(_quoted(f"{n:x}") for n in (value.start, value.stop, value.step))}]}}'
    return _by_name(value, type(value).__name__, depth)


def _by_name(value, name: str, depth: int) -> str:
    """Types of modules that are not worth loading at every start are known by name."""
    if name in ("dict_keys", "dict_values", "dict_items", "deque"):
        return f'{{"{name}":{_items(iter(value), depth)}}}'
    if name == "Fraction":
        return f'{{"fraction":["{value.numerator:x}","{value.denominator:x}"]}}'
    if name == "Decimal":
        return f'{{"decimal":{_quoted(str(value))}}}'
    if name in _ITERATORS and hasattr(value, "__next__"):
        found = list(islice(value, MAX_ITEMS + 1))
        if len(found) <= MAX_ITEMS:
            return f'{{"iterator":{_items(iter(found), depth)}}}'
    return f'{{"opaque":[{_quoted(name[:100])},{"true" if value else "false"}]}}'


def _items(items, depth: int) -> str:
    texts = [to_text(item, depth) for item in islice(items, MAX_ITEMS + 1)]
    if len(texts) > MAX_ITEMS:
        raise ValueError(f"the answer holds more than {MAX_ITEMS} items")
    return f"[{','.join(texts)}]"
