"""Numbers in answers: which number a text or a returned value gives, and when two numbers agree.

In: a generated text, or the value that a program returned. Out: a finite float, or None where there is none. What is
read as a number in a text:

- digits with an optional fraction and exponent, `18`, `1.5`, `.5`, `1e5`; a dot is a decimal point;
- digits in threes behind commas or underscores, `1,234,567`; any other comma ends a number, so `1,5` is 1 and 5;
- a minus (`-` or U+2212) that touches the number or its currency sign makes it negative, unless a letter, a digit or a
  closing bracket stands right before it: `-3` and `-$3` are negative, the 3 of `10-3` is not;
- signs of currency and percent are passed over, `$18`, `18%`, and so is a unit: `18kg`;
- digits behind a letter are part of a name, `x2`, `H2O`. The words inf and nan are no numbers.

A number beyond the range of float64 is none, because nothing finite can agree with it. Of a program's value, numbers
and texts that are one number as a whole count; booleans, containers and None do not.

Source: to take the last number is usual for GSM8K (lm-eval's flexible-extract); the grammar above is ours.
"""

import math
import re
from collections import deque

__all__ = ["EXACT_TOLERANCE", "RELATIVE_TOLERANCE", "agree", "last_number", "number_of"]

RELATIVE_TOLERANCE = 1e-3
"""GSM-Hard's numbers were enlarged by machine and 303 of its answers are not whole; PAL compares to 1e-3 too."""
EXACT_TOLERANCE = 1e-9
"""What is forgiven where equality is asked: float64 operations in another order, and nothing a reader would see."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?:_[0-9]{3})+(?![0-9])|[0-9]+)"
_CORE = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![^\W_]))?"
_MONEY, _MINUS = "[$\u20ac\u00a3\u00a5]", "[-\u2212]"
_IN_TEXT = re.compile(rf"(?<!\w)(?!(?<=\.)\.){_CORE}")
_NEGATIVE = re.compile(rf"(?<![\w)\]}}]){_MINUS}(?:{_MONEY} ?)?\Z|{_MONEY} ?{_MINUS}\Z")
_WHOLE = re.compile(rf"(?P<sign>[-+\u2212]?)(?:{_MONEY} ?)?(?P<inner>{_MINUS}?)(?P<core>{_CORE}) ?%?")
# The longest thing that decides a sign: one character before it, a minus, a currency sign and a space.
_BEFORE = 4


def last_number(text: str) -> float | None:
    """The last number of a text; None where it has none, or where the last one is beyond float64."""
    last = deque(_IN_TEXT.finditer(text), maxlen=1)
    if not last:
        return None
    found = last.pop()
    is_negative = _NEGATIVE.search(text[max(0, found.start() - _BEFORE) : found.start()])
    return _finite(found.group(), negative=is_negative is not None)


def number_of(value: object) -> float | None:
    """The number that a program's value is; None for whatever is not one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value.strip())
        return None if whole is None else _finite(whole["core"], negative=_is_minus(whole["sign"] + whole["inner"]))
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def agree(number: float | None, expected: float, relative: float) -> bool:
    """Whether a number is within `relative` of the expected one; of an expected 0 within `EXACT_TOLERANCE`."""
    return number is not None and abs(number - expected) <= max(relative * abs(expected), EXACT_TOLERANCE)


def _finite(core: str, *, negative: bool) -> float | None:
    number = float(core.replace(",", "").replace("_", ""))
    if not math.isfinite(number):
        return None
    return -number if negative else number


def _is_minus(signs: str) -> bool:
    return any(sign in "-\u2212" for sign in signs)
