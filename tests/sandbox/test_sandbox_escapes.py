"""Every way out that was ever tried, from inside every jail: as root that stays root, and as root made nobody.

Each program defines `attack`, which returns what got through. The control runs the harmless half of them bare, where
they do get through: an attack that cannot succeed proves nothing.
"""

import os
import signal
import socket

import pytest

from tclora.sandbox import Limits, Sandbox

RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
def tried(**attacks):
    through = []
    for name, attack in attacks.items():
        try: result = attack()
        except (OSError, ImportError, RuntimeError, MemoryError): continue
        if not (isinstance(result, int) and not isinstance(result, bool) and result < 0): through.append(name)
    return through
"""

ATTACKS = {
    "network": """
def attack(port):
    import socket
    def connected(kind, protocol, address):
        with socket.socket(socket.AF_INET, kind, protocol) as s: s.connect(address)
    return tried(
        tcp=lambda: connected(socket.SOCK_STREAM, 0, ("127.0.0.1", port)),
        udp=lambda: connected(socket.SOCK_DGRAM, 0, ("127.0.0.1", 9)),
        mptcp=lambda: connected(socket.SOCK_STREAM, 262, ("127.0.0.1", port)),
        unix=lambda: socket.socket(socket.AF_UNIX).close(),
        pair=lambda: [s.close() for s in socket.socketpair()],
        raw_call=lambda: call(41, 2, 1, 0),
        ipv6=lambda: socket.socket(socket.AF_INET6).close(),
        netlink=lambda: call(41, 16, 3, 0),
        vsock=lambda: call(41, 40, 1, 0),
    )
""",
    "write": """
def attack(folder):
    def written(path, flags):
        os.close(os.open(path, flags, 0o600)); return True
    places = [folder, "/tmp", "/dev/shm", "/var/tmp", "/", "/dev", "/run", ".", "/root", "/home"]
    found = [p for p in places if tried(x=lambda: written(p + "/tclora-escape", os.O_WRONLY | os.O_CREAT))]
    return found + tried(
        tmpfile=lambda: written("/tmp", os.O_RDWR | os.O_TMPFILE),
        folder=lambda: os.mkdir("/tmp/tclora-escape-folder"),
        link=lambda: os.symlink("/etc/passwd", "/tmp/tclora-escape-link"),
        rename=lambda: os.rename(folder + "/secret", folder + "/moved"),
        remove=lambda: os.unlink(folder + "/secret"),
        mode=lambda: os.chmod(folder + "/secret", 0o777),
        truncate=lambda: os.truncate(folder + "/secret", 0),
        times=lambda: os.utime(folder + "/secret"),
        node=lambda: call(133, b"/tmp/tclora-escape-node", 0o10666, 0),
        openat2=lambda: call(437, -100, b"/tmp/x", ctypes.create_string_buffer(b"\\x41" + bytes(23)), 24),
        creat=lambda: call(85, b"/tmp/tclora-escape-creat", 0o600),
    )
""",
    "read": """
def attack(folder):
    def read(path):
        with open(path, "rb") as file: return bool(file.read(1)) or -1
    paths = [folder + "/secret", "/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc", "/proc/self/environ",
             "/proc/1/environ", "/proc/self/maps", "/proc/self/mem", "/sys/kernel/mm/transparent_hugepage/enabled",
             "/dev/urandom", "/etc/hosts"]
    found = [p for p in paths if tried(x=lambda: read(p))]
    # In a namespace of its own the folders on the way to the interpreter exist, with nothing beside.
    ours = {"ld.so.cache", *__import__("sys").base_prefix.split("/")}
    for place in ("/etc", "/proc", folder, "/root", "/home", "/tmp", "/var"):
        try: found += [f"{place}/{name}" for name in os.listdir(place) if name not in ours]
        except OSError: pass
    return found
""",
    "signals": """
def attack(pid):
    import signal
    return tried(
        kill=lambda: os.kill(pid, 0) or True, group=lambda: os.kill(0, 0) or True, all=lambda: os.kill(-1, 0) or True,
        init=lambda: os.kill(1, 0) or True, parent=lambda: os.kill(os.getppid(), 0) or True,
        tgkill=lambda: call(234, pid, pid, 0), queue=lambda: call(129, pid, 0, ctypes.create_string_buffer(128)),
        pidfd=lambda: call(434, pid, 0), priority=lambda: os.setpriority(os.PRIO_PROCESS, pid, 5) or True,
        scheduler=lambda: call(144, pid, 0, ctypes.create_string_buffer(8)),
        affinity=lambda: os.sched_setaffinity(0, {0}) or True,
        limits=lambda: call(302, pid, 7, None, ctypes.create_string_buffer(16)),
        owner=lambda: call(72, 4, 8, pid), ptrace=lambda: call(101, 16, pid, 0, 0),
        peek=lambda: call(310, pid, None, 0, None, 0, 0), group_of_other=lambda: os.setpgid(0, pid) or True,
    )
""",
    "privileges": """
def attack(_):
    null = ctypes.create_string_buffer(256)
    return tried(
        namespaces=lambda: call(272, 0x10000000), clone_namespace=lambda: call(56, 0x10000011, 0, 0, 0, 0),
        mount=lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, None), chroot=lambda: call(161, b"/tmp"),
        io_uring=lambda: call(425, 8, null), keyctl=lambda: call(250, 0, -3, 1),
        add_key=lambda: call(248, b"user", b"x", b"y", 1, -3),
        bpf=lambda: call(321, 0, null, 48), perf=lambda: call(298, null, 0, -1, -1, 0),
        userfault=lambda: call(323, 0),
        setuid=lambda: call(105, 0), setgid=lambda: call(106, 0), setns=lambda: call(308, 3, 0),
        personality=lambda: call(135, 0x40000),
        module=lambda: call(313, 3, b"", 0), reboot=lambda: call(169, 0xfee1dead, 672274793, 0, None),
        sethostname=lambda: call(170, b"x", 1), settime=lambda: call(227, 0, null),
        seccomp=lambda: call(317, 1, 0, null),
        type_into_terminal=lambda: call(16, 0, 0x5412, b"x"), prctl=lambda: call(157, 4, 1, 0, 0, 0),
        open_by_handle=lambda: call(304, -100, null, 0), landlock=lambda: call(444, null, 8, 0),
        quotactl=lambda: call(179, 0, 0, 0, 0),
        swap=lambda: call(167, b"/x", 0), syslog=lambda: call(103, 3, null, 100),
        capset=lambda: call(126, null, null),
    )
""",
    "programs": """
def attack(_):
    import subprocess
    def shell():
        return os.posix_spawn("/bin/sh", ["sh", "-c", "true"], {})
    return tried(
        system=lambda: os.system("true") if os.system("true") == 0 else -1,
        run=lambda: subprocess.run(["/bin/sh", "-c", "true"]),
        spawn=shell, ld=lambda: subprocess.run(["/lib64/ld-linux-x86-64.so.2", "/bin/sh", "-c", "true"]),
        execve=lambda: os.execv("/nonexistent", ["x"]) , memory_exec=lambda: call(322, -100, b"", None, None, 0x1000),
    )
""",
    "forks": """
def attack(_):
    n = 0
    for _ in range(200):
        child = call(56, 17, 0, 0, 0, 0)
        if child == 0: os._exit(0)
        n += child > 0
    if n or tried(fork=lambda: os.fork() or os._exit(0)): return [n]
    return tried(vfork=lambda: call(58), clone3=lambda: call(435, ctypes.create_string_buffer(88), 88))
""",
    "threads": """
def attack(_):
    import threading, time
    threading.stack_size(32768)
    n = 0
    try:
        for _ in range(400):
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start(); n += 1
    except (RuntimeError, MemoryError): pass
    return [n] if n else []
""",
    "memory": """
def attack(_):
    try: block = bytearray(1_600_000_000); return [len(block)]
    except MemoryError: return []
""",
    "memory in pieces": """
def attack(_):
    pieces = []
    try:
        while len(pieces) < 100: pieces.append(bytearray(b"x") * 4_000_000)
    except MemoryError:
        n = len(pieces); del pieces
        return [] if n < 68 else [n]
    return [len(pieces)]
""",
    "memory off the books": """
def attack(folder):
    def file_of(path):
        with open(path, "wb") as file:
            os.unlink(path)
            for _ in range(100): file.write(bytes(4_000_000))
    return tried(
        memfd=lambda: os.memfd_create("x"), secret=lambda: call(447, 0), shm=lambda: call(29, 0, 400_000_000, 0o1600),
        file=lambda: file_of(folder + "/big"), dev_shm=lambda: file_of("/dev/shm/tclora-big"),
        tmp=lambda: file_of("/tmp/tclora-big"),
        pipe=lambda: os.pipe(), queue=lambda: call(240, b"tclora", 0o102, 0o600, None),
        semaphore=lambda: call(64, 0, 30000, 0o1600),
        lock=lambda: call(149, 0, 4096), inotify=lambda: call(253),
        timer=lambda: call(222, 0, None, ctypes.create_string_buffer(8)),
        epoll=lambda: call(291, 0), event=lambda: call(290, 0, 0),
    )
""",
    "orphan": """
def attack(_):
    def left():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                import time; time.sleep(30)
            os._exit(0)
        return True
    return tried(daemon=left, session=os.setsid)
""",
    "environment": """
def attack(token):
    found = [f"{k}={v}" for k, v in os.environ.items() if token in k or token in v]
    if len(os.environ) > 5: found.append(f"{len(os.environ)} variables: {sorted(os.environ)}")
    for pointer in (ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ"),):
        i = 0
        while pointer[i]:
            if token.encode() in pointer[i]: found.append("environ")
            i += 1
    import sys
    if any(token in a for a in sys.argv): found.append("argv")
    return found
""",
    "descriptors": """
def attack(inode):
    found = []
    for descriptor in range(1024):
        try: facts = os.fstat(descriptor)
        except OSError: continue
        if facts.st_ino == inode: found.append(f"descriptor {descriptor} of the harness")
        # Besides null on 0 to 2: the two ends on which it is asked (3) and answers (4).
        if descriptor > 4: found.append(f"descriptor {descriptor}")
    return found
""",
    "the standard streams": """
def attack(_):
    import sys
    found = [d for d in (0, 1, 2) if not (os.fstat(d).st_rdev == os.makedev(1, 3))]
    try: found += [input()]
    except EOFError: pass
    print("x" * 100000); print("y" * 100000, file=sys.stderr, flush=True)
    return found
""",
}  # fmt: skip
# Those that do no harm where nothing stops them; memory has its limit even there, and signals would reach this test.
HARMLESS_BARE = (
    "network",
    "read",
    "programs",
    "forks",
    "threads",
    "memory off the books",
)


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """Something to find: a listening port, a secret file, a variable, an inheritable descriptor."""
    monkeypatch.setenv("TCLORA_PLANTED", "planted-token-51")
    (tmp_path / "secret").write_text("planted")
    tmp_path.chmod(0o777)
    (tmp_path / "secret").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        os.set_inheritable(server.fileno(), True)
        yield {
            "network": server.getsockname()[1],
            "signals": os.getpid(),
            "environment": "planted-token-51",
            "descriptors": os.fstat(held.fileno()).st_ino,
            "folder": str(tmp_path),
        }


def got_through(sandbox: Sandbox, attack: str, surroundings: dict) -> object:
    argument = surroundings.get(attack, surroundings["folder"])
    outcome = sandbox.run_solution(RAW + ATTACKS[attack], function="attack", args=(argument,))
    assert outcome.passed, outcome
    return outcome.value


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_gets_through(opened, backend, user, attack, surroundings):
    sandbox = opened(backend, user, limits=Limits(memory_bytes=256 * 2**20))
    assert got_through(sandbox, attack, surroundings) == []
    assert (surroundings and os.path.getsize(f"{surroundings['folder']}/secret")) == len("planted")


@pytest.mark.parametrize("attack", HARMLESS_BARE)
def test_the_attacks_get_through_where_nothing_stops_them(attack, surroundings):
    sandbox = Sandbox(backend="none", unsafe_no_sandbox=True, limits=Limits(memory_bytes=2**31))
    assert got_through(sandbox, attack, surroundings)


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_root_becomes_nobody_where_the_interpreter_is_open(opened, backend, user):
    sandbox = opened(backend, user)
    outcome = sandbox.run_solution("import os\ndef solution(): return os.getuid(), os.geteuid(), os.getgid()")
    inside = (0, 0, 0) if backend == "landlock" and user == "root" else (65534,) * 3
    if os.geteuid() == 0:
        assert outcome.value == inside
        assert sandbox.level.drops_user == (user == "nobody")


def test_a_program_may_signal_itself_only(sandbox):
    text = "import os, signal\ndef solution():\n    os.kill(os.getpid(), signal.SIGKILL)"
    assert sandbox.run_solution(text).status == "memory"
    assert sandbox.run_solution(text.replace("SIGKILL", "SIGABRT")).detail == (
        f"it crashed with signal {signal.SIGABRT.value}"
    )


def test_what_a_program_needs_is_there(sandbox):
    """The jail is no use if honest programs fail in it: the modules that solutions import."""
    names = (
        "math cmath random string re collections itertools functools operator heapq bisect statistics decimal "
        "fractions datetime time calendar typing dataclasses enum copy json hashlib sys os abc array numbers textwrap"
    )
    text = (
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n    y: 'int' = 2\n"
        f"def solution():\n    for name in {names.split()!r}: __import__(name)\n"
        "    import hashlib, time, random\n    time.sleep(0.001)\n    random.seed(1)\n"
        "    return hashlib.md5(b'a').hexdigest()[:4], Point(1).y\n"
    )
    assert sandbox.run_solution(text).value == ("0cc1", 2)
