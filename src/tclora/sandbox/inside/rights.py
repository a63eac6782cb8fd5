"""Rights that a process gives up for good.

In: nothing but the process itself. Out: nothing. An OSError where the kernel does not let it.
"""

import ctypes
import os
import struct

from tclora.sandbox.inside.kernel import checked, prctl, syscall

__all__ = ["die_with", "drop_capabilities", "forbid_new_rights"]

_SET_PDEATHSIG, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 1, 24, 38, 47
_CAP_AMBIENT_CLEAR_ALL = 4
_CAPSET, _CAPABILITY_VERSION_3 = 126, 0x20080522


def die_with(parent: int) -> None:
    """Be killed when the parent is; `parent` is its process id, or 0 where a namespace hides it."""
    checked(prctl(_SET_PDEATHSIG, 9), "the signal of the parent's death")
    # It may have gone before the signal was asked for.
    if parent and os.getppid() != parent:
        os._exit(1)


def drop_capabilities() -> None:
    """Root without capabilities still owns its files, but passes no permission and signals nobody."""
    for capability in range(64):
        # Refused to who has none to drop, and beyond the last that the kernel knows.
        prctl(_CAPBSET_DROP, capability)
    prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), 8)
    checked(syscall(_CAPSET, header, ctypes.create_string_buffer(24)), "giving up capabilities")


def forbid_new_rights() -> None:
    checked(prctl(_SET_NO_NEW_PRIVS, 1), "no_new_privs")
