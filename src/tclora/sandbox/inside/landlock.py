"""Landlock: which files a process may open, decided for good by the process itself.

In: folders and files that may be read. Out: the ABI of the kernel; nothing else can be opened from then on, nothing
written anywhere, and where the ABI has it no TCP port is used and no other process signalled. Refused: a kernel
without Landlock.

Source: landlock(7); Documentation/userspace-api/landlock.rst of Linux.
"""

import ctypes
import os
import struct

from tclora.sandbox.inside.kernel import checked, syscall

__all__ = ["abi_of", "allow_reading_only"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_O_PATH = 0o10000000
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Number of rights on files that the kernel knows, by its ABI: refer came with 2, truncate with 3, device ioctl with 5.
_N_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def abi_of() -> int:
    """The kernel's Landlock ABI; 0 where there is none or it is switched off."""
    return max(0, syscall(_CREATE, None, 0, 1))


def allow_reading_only(paths: list[str]) -> int:
    """Let this process open what lies beneath `paths`, to read, and nothing else. Needs no_new_privs.

    A path that does not exist, or may not be read by us, gives no right.

    Returns:
        the ABI that is in force.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    abi = abi_of()
    if abi < 1:
        raise OSError(38, "the kernel has no Landlock, or it is switched off")
    files = (1 << _N_FILE_RIGHTS[min(abi, 5)]) - 1
    ports = 0b11 if abi >= 4 else 0
    scoped = 0b11 if abi >= 6 else 0
    attributes = struct.pack("<QQQ", files, ports, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    size = len(attributes)
    rules = checked(syscall(_CREATE, ctypes.create_string_buffer(attributes, size), size, 0), "Landlock rules")
    for path in paths:
        _allow(rules, path)
    checked(syscall(_RESTRICT, rules, 0), "Landlock")
    os.close(rules)
    return abi


def _allow(rules: int, path: str) -> None:
    try:
        place = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
    rule = struct.pack("<Qi", rights, place)
    checked(syscall(_ADD, rules, 1, ctypes.create_string_buffer(rule, len(rule)), 0), f"the Landlock rule for {path}")
    os.close(place)
