"""Importing thousands of modules without the garbage collector, which finds nothing among them and takes a tenth."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["heavy_imports"]


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Collect nothing inside; what was made inside is left out of all later collections, for it stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
