"""Shape annotations that cost nothing in production.

`Float[Tensor, "m d_out r"]` is checked by jaxtyping and beartype when the test run has loaded jaxtyping before
tclora (`--jaxtyping-packages`), and is plain `Tensor` otherwise. So jaxtyping is a development dependency only.

A module that uses these must not say `from __future__ import annotations` (the annotations would become strings),
and writes one-axis shapes with a leading space, `" n"`, as jaxtyping asks.
"""

import sys
from typing import TYPE_CHECKING

__all__ = ["Bool", "Float", "Int"]

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int
else:

    class _Unchecked:
        """Stands in for a jaxtyping dtype: indexing returns the array type alone."""

        def __class_getitem__(cls, item):
            return item[0]

    Bool = Float = Int = _Unchecked
