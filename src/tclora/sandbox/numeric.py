"""The number that a program's answer means, for answers to word problems.

In: a value that left the jail. Out: a float, or None where it is no number. Never raises.
"""

import math
from decimal import Decimal
from fractions import Fraction

__all__ = ["numeric_value"]


def numeric_value(value: object) -> float | None:
    """Read a returned value as a finite number.

    int, float, Fraction and Decimal count; a complex number does where its imaginary part is 0; a list or tuple of
    one counts as that one; a text counts if it is a number once `$`, `%` and thousands commas are gone. A bool, None,
    NaN, infinity and what a double cannot hold are no numbers.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, complex):
        value = value.real if value.imag == 0 else None
    if isinstance(value, str):
        value = _of_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _of_text(text: str) -> Decimal | None:
    if len(text) > 1000:
        return None
    bare = text.strip().removeprefix("$").removesuffix("%").replace(",", "").strip()
    # Decimal takes underscores and digits of other scripts; neither is a number that a benchmark means.
    if not bare.isascii() or "_" in bare:
        return None
    try:
        return Decimal(bare)
    except ArithmeticError:
        return None
