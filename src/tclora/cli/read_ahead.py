"""Read adapters into the system's cache while the heavy imports go on: those leave a core and the disk idle.

In: the words of a command, of which some may be adapter folders. It is a hint: nothing is checked, nothing can fail.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["read_ahead"]

# Linux reads no more of one request than its read-ahead window, often 128 KB to a few MB, and forgets the rest.
_STEP = 2**19


def read_ahead(words: Sequence[str], *, digests: bool = False) -> None:
    """Begin to read the weight files of the folders among `words`, in the background.

    At most half of the free memory is asked for. With `digests` another process reads all of them for their digests.
    """
    files = [file for word in words for file in _weight_files(word)]
    if digests and files:
        from tclora.artifacts import begin_digests

        begin_digests(files)
    elif hasattr(os, "posix_fadvise"):
        threading.Thread(target=_ask, args=(files,), name="read-ahead", daemon=True).start()


def _weight_files(word: str) -> list[Path]:
    try:
        # Opening a pipe would wait for ever for somebody to write into it.
        file = Path(word).expanduser() / "adapter_model.safetensors"
        return [file] if file.is_file() else []
    except (OSError, ValueError, RuntimeError):
        return []  # whoever reads the folder in earnest says what is wrong with it


def _ask(files: Sequence[Path]) -> None:
    left = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for file in files:
        with suppress(OSError):
            left -= _ask_for(file, left)


def _ask_for(file: Path, at_most: int) -> int:
    with open(file, "rb") as opened:
        size = min(os.fstat(opened.fileno()).st_size, at_most)
        for start in range(0, size, _STEP):
            os.posix_fadvise(opened.fileno(), start, _STEP, os.POSIX_FADV_WILLNEED)
    return max(0, size)
