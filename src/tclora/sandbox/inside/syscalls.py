"""The system calls that a computing Python needs, by their x86_64 numbers.

In: nothing. Out: numbers. Everything not named here is refused: what a future kernel adds is refused unseen.

Source: arch/x86/entry/syscalls/syscall_64.tbl of Linux.
"""

__all__ = ["ABSENT", "ALLOWED", "FCNTL", "IOCTL", "NUMBER"]

ALLOWED = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "readv": 19, "writev": 20, "access": 21, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38,
    "getpid": 39, "exit": 60, "uname": 63, "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97,
    "getrusage": 98, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110,
    "getpgrp": 111, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204,
    "getdents64": 217, "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "dup3": 292, "getrandom": 318, "statx": 332, "faccessat2": 439,
}  # fmt: skip
"""Allowed whatever their arguments."""

NUMBER = {
    "open": 2, "ioctl": 16, "kill": 62, "fcntl": 72, "tkill": 200, "tgkill": 234, "openat": 257, "prlimit64": 302,
}  # fmt: skip
"""Allowed for some arguments."""

ABSENT = (435, 437, 334)
"""clone3, openat2 and rseq pretend not to exist, so that the C library takes the older call."""

FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN, which sends signals to others."""

IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS (is it a terminal), TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX. Not TIOCSTI, which types into a terminal."""
