"""A seccomp filter of our own: a list of what is allowed, everything else refused.

In: the process that it is for. Out: nothing; the process is under the filter for good. Refused: other CPUs, whose
numbers differ; a kernel without seccomp.

No program, thread or signal to another process can be started or sent, no file opened for writing, no socket, no
memory made that the limits do not see. Threads are refused too: with small stacks the memory limit allows tens of
thousands, each with kernel memory that no limit counts.

Source: seccomp(2); Documentation/userspace-api/seccomp_filter.rst of Linux.
"""

import ctypes
import struct

from tclora.sandbox.inside.kernel import checked, syscall
from tclora.sandbox.inside.syscalls import ABSENT, ALLOWED, FCNTL, IOCTL, NUMBER

__all__ = ["filter_program", "install"]

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _EACCES, _ENOSYS = 1, 13, 38
_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, and the bit of O_TMPFILE that is not O_DIRECTORY.
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000
_NR, _ARCH = 0, 4

Instruction = tuple[int, int, int, int]


def filter_program(pid: int) -> bytes:
    """The filter as an array of `struct sock_filter`, for a process whose own id is `pid`."""
    code = [_load(_ARCH), (_EQUAL, 1, 0, _X86_64), _give(_KILL_PROCESS), _load(_NR)]
    code += [(_AT_LEAST, 0, 1, _X32_BIT), _give(_KILL_PROCESS)]
    for number in sorted(ALLOWED.values()):
        code += [(_EQUAL, 0, 1, number), _give(_ALLOW)]
    for number in ABSENT:
        code += [(_EQUAL, 0, 1, number), _give(_ERRNO | _ENOSYS)]
    code += _where(NUMBER["open"], 1, [(_ANY_BIT, 0, 1, _WRITING), _give(_ERRNO | _EACCES), _give(_ALLOW)])
    code += _where(NUMBER["openat"], 2, [(_ANY_BIT, 0, 1, _WRITING), _give(_ERRNO | _EACCES), _give(_ALLOW)])
    for name, argument, values in (
        ("fcntl", 1, FCNTL),
        ("ioctl", 1, IOCTL),
        # A process may signal itself (abort does) and ask for its own limits, nobody else's.
        ("kill", 0, (pid,)),
        ("tkill", 0, (pid,)),
        ("tgkill", 0, (pid,)),
        ("prlimit64", 0, (0,)),
    ):
        code += _where(NUMBER[name], argument, _only(values))
    code.append(_give(_ERRNO | _EPERM))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def install(pid: int) -> None:
    """Put this process, which must have one thread, under the filter. Needs no_new_privs or root.

    Raises:
        OSError: the kernel refuses.
    """
    code = filter_program(pid)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count of instructions, padding to the pointer, the pointer.
    header = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    checked(syscall(317, 1, 0, ctypes.create_string_buffer(header, len(header))), "the seccomp filter")


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _give(verdict: int) -> Instruction:
    return (_RETURN, 0, 0, verdict)


def _where(number: int, argument: int, rest: list[Instruction]) -> list[Instruction]:
    """`rest` judges the low half of one argument of one system call; the kernel reads these as 32 bits."""
    return [(_EQUAL, 0, 1 + len(rest), number), _load(16 + 8 * argument), *rest]


def _only(values: tuple[int, ...]) -> list[Instruction]:
    rest: list[Instruction] = []
    for value in values:
        rest += [(_EQUAL, 0, 1, value), _give(_ALLOW)]
    return [*rest, _give(_ERRNO | _EPERM)]
