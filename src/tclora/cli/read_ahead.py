"""Ask the system to read adapters into its cache while the heavy imports go on: they take as long as the disk does.

In: the words of a command, of which some may be adapter folders. It is a hint: nothing is checked, nothing can fail. At
most half of the free memory is asked for.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["read_ahead"]

# Linux reads no more of one request than its read-ahead window, often 128 KB to a few MB, and forgets the rest.
_STEP = 2**19


def read_ahead(words: Sequence[str]) -> None:
    """Begin to read the weight files of the folders among `words`, in the background."""
    if hasattr(os, "posix_fadvise"):
        threading.Thread(target=_ask, args=(tuple(words),), name="read-ahead", daemon=True).start()


def _ask(words: tuple[str, ...]) -> None:
    left = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for word in words:
        try:
            for file in sorted(Path(word).expanduser().glob("*.safetensors")):
                left -= _ask_for(file, left)
        except (OSError, ValueError, RuntimeError):
            continue  # whoever reads the folder in earnest says what is wrong with it


def _ask_for(file: Path, at_most: int) -> int:
    with open(file, "rb") as opened:
        size = min(os.fstat(opened.fileno()).st_size, at_most)
        for start in range(0, size, _STEP):
            os.posix_fadvise(opened.fileno(), start, _STEP, os.POSIX_FADV_WILLNEED)
    return max(0, size)
