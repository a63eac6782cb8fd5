"""The seccomp filter, read by a small machine of our own: every system call, against the list of what is allowed."""

import struct
from functools import lru_cache

import pytest

from tclora.sandbox.inside.seccomp import filter_program
from tclora.sandbox.inside.syscalls import ABSENT, ALLOWED, NUMBER

ALLOW, KILL, EPERM, EACCES, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x5000D, 0x50026
X86_64 = 0xC000003E
PID = 4711


@lru_cache
def instructions(pid: int) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("<HBBI", filter_program(pid)))


def verdict(number: int, *arguments: int, arch: int = X86_64, pid: int = PID) -> int:
    """What the filter says of one call: classic BPF, as Linux' Documentation/networking/filter.rst defines it."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(a & (2**64 - 1) for a in padded))
    code = instructions(pid)
    accumulator, place = 0, 0
    while True:
        operation, jump_true, jump_false, k = code[place]
        place += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            place += jump_true if holds else jump_false


def test_every_call_that_is_not_listed_is_refused():
    said = {number: verdict(number) for number in range(600)}
    allowed = {number for number, word in said.items() if word == ALLOW}
    # With arguments of zero these are reads of a plain file, F_DUPFD, and one's own limits.
    harmless = {NUMBER["open"], NUMBER["openat"], NUMBER["fcntl"], NUMBER["prlimit64"]}
    assert allowed == set(ALLOWED.values()) | harmless
    assert {said[n] for n in said if n not in allowed and n not in ABSENT} == {EPERM}
    assert {said[n] for n in ABSENT} == {ENOSYS}


@pytest.mark.parametrize("arch", [0x40000003, 0xC00000B7, 0])
def test_another_architecture_is_killed(arch):
    """A 32-bit call on x86_64 has other numbers: 11 is execve there and munmap here."""
    assert verdict(11, arch=arch) == KILL


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 59, 0xFFFFFFFF])
def test_x32_is_killed(number):
    assert verdict(number) == KILL


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("openat", (-100, 0, 0o2000000), ALLOW),
        ("openat", (-100, 0, 0o200000), ALLOW),
        ("openat", (-100, 0, 1), EACCES),
        ("openat", (-100, 0, 2), EACCES),
        ("openat", (-100, 0, 0o100), EACCES),
        ("openat", (-100, 0, 0o1000), EACCES),
        ("openat", (-100, 0, 0o20200000), EACCES),
        ("open", (0, 0o101), EACCES),
        ("open", (0, 0), ALLOW),
        ("kill", (PID, 6), ALLOW),
        ("kill", (PID + 1, 6), EPERM),
        ("kill", (0, 9), EPERM),
        ("kill", (-1, 9), EPERM),
        ("tgkill", (PID, PID, 6), ALLOW),
        ("tgkill", (1, 1, 6), EPERM),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), EPERM),
        ("fcntl", (4, 8, 1), EPERM),
        ("fcntl", (4, 1031, 1 << 20), EPERM),
        ("fcntl", (4, 1, 0), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        # The kernel looks at the low 32 bits of these, so the filter must too.
        ("kill", (PID | 1 << 32, 6), ALLOW),
        ("openat", (-100, 0, 1 | 1 << 32), EACCES),
    ],
)
def test_arguments_decide(name, arguments, expected):
    assert verdict(NUMBER[name], *arguments) == expected


def test_the_filter_fits_the_kernels_limit():
    assert len(filter_program(1)) // 8 <= 4096


@pytest.mark.parametrize(
    "number",
    [59, 322, 57, 58, 56, 41, 42, 319, 29, 87],
    ids=["execve", "execveat", "fork", "vfork", "clone", "socket", "connect", "memfd_create", "shmget", "unlink"],
)
def test_the_calls_that_matter_most(number):
    assert verdict(number) == EPERM
