"""Calls to the kernel that Python's standard library has no function for.

In: numbers and buffers. Out: the kernel's answer. Refused: nothing here; `checked` raises for who needs that.
"""

import ctypes

__all__ = ["LIBC", "checked", "prctl", "syscall"]

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: object) -> int:
    """One system call; -1 and errno where it fails. Numbers are passed as 64 bits, which ctypes does not do itself."""
    return LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))


def prctl(option: int, value: int, more: int = 0) -> int:
    return syscall(157, option, value, more, 0, 0)


def checked(result: int, what: str) -> int:
    """`result`, or an OSError that says what was asked of the kernel."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"the kernel refuses {what}")
    return result
