"""Ask the system to read adapters into its cache while the heavy imports go on: they take as long as the disk does.

In: the words of a command, of which some may be adapter folders. It is a hint: nothing is checked, nothing can fail.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["read_ahead"]


def read_ahead(words: Sequence[str]) -> None:
    """Begin to read the weight files of the folders among `words`, in the background."""
    if hasattr(os, "posix_fadvise"):
        threading.Thread(target=_ask, args=(tuple(words),), name="read-ahead", daemon=True).start()


def _ask(words: tuple[str, ...]) -> None:
    for word in words:
        try:
            for file in sorted(Path(word).expanduser().glob("*.safetensors")):
                with open(file, "rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        except (OSError, ValueError, RuntimeError):
            continue  # whoever reads the folder in earnest says what is wrong with it
