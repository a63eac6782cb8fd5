"""Which jail is taken, what is said of it, and that nothing runs bare unless that was asked for by name."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tclora
from tclora.errors import ConfigError, JobFailedError
from tclora.sandbox import Level, Sandbox, available, backends, commands, interpreter
from tclora.sandbox import jail as jail_module
from tclora.sandbox.interpreter import find_interpreter

TEXT = "def solution(): return 6 * 7"


@pytest.fixture
def fresh():
    """What was found out about this machine is forgotten before and after."""
    backends._tried.cache_clear()
    yield
    backends._tried.cache_clear()


def works(*names: str):
    """Stands in for the trial of a back end: those named work."""

    def tried(backend: str, _interpreter: object) -> Level:
        return Level(backend, usable=backend in names, reason="" if backend in names else f"no {backend} today")

    return tried


@pytest.mark.parametrize(
    ("usable", "taken"),
    [(("bubblewrap", "landlock"), "bubblewrap"), (("landlock",), "landlock"), (("bubblewrap",), "bubblewrap")],
)
def test_the_best_that_works_is_taken(monkeypatch, usable, taken):
    monkeypatch.setattr(backends, "_tried", works(*usable))
    assert Sandbox().level.backend == taken


def test_where_none_works_nothing_is_run(monkeypatch):
    monkeypatch.setattr(backends, "_tried", works())
    with pytest.raises(ConfigError, match=r"no bubblewrap today; landlock: no landlock today"):
        Sandbox()


def test_none_works_and_the_unsafe_flag_was_given(monkeypatch):
    monkeypatch.setattr(backends, "_tried", works())
    sandbox = Sandbox(unsafe_no_sandbox=True)
    assert sandbox.facts["backend"] == "none"
    assert sandbox.level.line.startswith("NO SANDBOX: generated code runs with your rights")
    assert sandbox.run_solution(TEXT).value == 42


def test_the_unsafe_flag_does_not_switch_a_working_jail_off(monkeypatch):
    monkeypatch.setattr(backends, "_tried", works("landlock"))
    assert Sandbox(unsafe_no_sandbox=True).level.backend == "landlock"


@pytest.mark.parametrize("flag", [True, False])
def test_a_back_end_asked_for_by_name_is_not_exchanged(monkeypatch, flag):
    monkeypatch.setattr(backends, "_tried", works("landlock"))
    with pytest.raises(ConfigError, match="bubblewrap: no bubblewrap today"):
        Sandbox(backend="bubblewrap", unsafe_no_sandbox=flag)


def test_none_needs_the_flag():
    with pytest.raises(ConfigError, match=r"(?s)not run without a sandbox.*unsafe_no_sandbox"):
        Sandbox(backend="none")


def test_an_unknown_back_end_is_refused():
    with pytest.raises(ConfigError, match=r"(?s)no such sandbox back end.*docker.*auto, bubblewrap, landlock, none"):
        Sandbox(backend="docker")


def test_without_bwrap_landlock_is_taken(monkeypatch, fresh, opened):
    opened("landlock")
    monkeypatch.setattr(backends, "bwrap_path", lambda: None)
    sandbox = Sandbox()
    assert sandbox.level.backend == "landlock"
    assert available()[0].line == "sandbox: bubblewrap is not usable here: the program bwrap is not installed"


def test_with_namespaces_off_landlock_is_taken(monkeypatch, fresh, opened, tmp_path):
    """A bwrap that says what the real one says where the kernel gives it no namespace."""
    opened("landlock")
    tmp_path.chmod(0o755)
    refused = tmp_path / "bwrap"
    refused.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refused.chmod(0o755)
    monkeypatch.setattr(commands, "bwrap_path", lambda: str(refused))
    monkeypatch.setattr(backends, "bwrap_path", lambda: str(refused))
    assert Sandbox().level.backend == "landlock"
    assert "No permissions to create new namespace" in available()[0].reason


def test_a_bwrap_that_shuts_nothing_in_is_found_out(monkeypatch, fresh, tmp_path):
    """It starts what comes after `--` as it is; our own filter is then all that holds, and files can be read."""
    tmp_path.chmod(0o755)
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift\nexec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(commands, "bwrap_path", lambda: str(fake))
    monkeypatch.setattr(backends, "bwrap_path", lambda: str(fake))
    found = available()[0]
    assert not found.usable
    assert "reading /etc/passwd" in found.reason


def test_a_kernel_without_landlock(monkeypatch, fresh):
    """The jailed side asks for a system call that this kernel does not have, as an old one would not."""
    from tclora.sandbox import bundle

    text = (
        (bundle._INSIDE / "landlock.py")
        .read_text()
        .replace("_CREATE, _ADD, _RESTRICT = 444", "_CREATE, _ADD, _RESTRICT = 999")
    )
    real = bundle._modules

    def without(compiled: bool, linux: bool):
        return tuple((name, text if name.endswith("landlock") else code) for name, code in real(compiled, linux))

    monkeypatch.setattr(bundle, "_modules", without)
    found = available()[1]
    assert not found.usable
    assert "the kernel has no Landlock" in found.reason


@pytest.mark.parametrize(
    ("abi", "gap"), [(1, "truncation, TCP ports"), (3, "TCP ports, device"), (5, "signals"), (7, "")]
)
def test_what_the_kernels_landlock_lacks_is_said(abi, gap):
    said = "; ".join(backends._gaps_of_abi("landlock", abi))
    assert (gap in said and "seccomp alone" in said) if gap else said == ""


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (platform, "machine", lambda: "aarch64", "x86_64 only, and this is aarch64"),
        (sys, "platform", "darwin", "needs Linux"),
    ],
)
def test_other_machines_are_refused(monkeypatch, fresh, module, name, value, reason):
    find_interpreter()
    monkeypatch.setattr(module, name, value)
    assert [reason in level.reason for level in available()] == [True, True]
    with pytest.raises(ConfigError, match=reason):
        Sandbox()


def test_a_jail_that_does_not_say_it_is_shut_in_gets_no_program(monkeypatch, opened):
    sandbox = opened("landlock")
    monkeypatch.setattr(jail_module, "first_frame", lambda interpreter, settings: b"\x01\x00\x00\x00N")
    with pytest.raises(JobFailedError, match=r"(?s)landlock jail does not start.*TypeError"):
        sandbox.run_solution(TEXT)


def test_what_a_result_records(sandbox, backend):
    facts = sandbox.facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["backend"] == backend
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert sandbox.level.line.startswith(f"sandbox: {backend} with seccomp and limits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not start"),
        ("#!/bin/sh\nexit 3\n", "does not start"),
        ("#!/bin/sh\necho hello\n", "does not start"),
        ('#!/bin/sh\necho \'{"name": "cpython", "version": [3, 9, 1]}\'\n', r"(?s)too old.*cpython 3.9.1"),
        ('#!/bin/sh\necho \'{"name": "pypy", "version": [3, 11, 1]}\'\n', r"(?s)not CPython.*pypy"),
    ],
)
def test_an_interpreter_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "python"
    if text:
        path.write_text(text)
        path.chmod(0o755)
    with pytest.raises(ConfigError, match=message):
        Sandbox(python=path)


def test_folders_of_the_interpreter_are_not_inside_each_other():
    folders = find_interpreter().folders
    assert all(os.path.realpath(folder) == folder for folder in folders)
    assert not [(a, b) for a in folders for b in folders if a != b and a.startswith(f"{b}/")]
    assert interpreter.Interpreter("/usr/bin/python3", "3", True, ("/usr/lib",)).open_to_all in (True, False)


AS_NOBODY = """
import sys; sys.path.insert(0, sys.argv[1])
from tclora.sandbox import Sandbox, available
for level in available():
    if level.usable:
        text = "def solution():\\n    try: open('/etc/passwd')\\n    except OSError: return 1"
        outcome = Sandbox(backend=level.backend).run_solution(text)
        print(level.backend, outcome.status, outcome.value)
    else: print(level.backend, level.reason)
"""


def test_a_harness_that_is_nobody_has_the_same_jails(tmp_path_factory, opened):
    """What root can make, a user without rights must be able to make too, in a process that has none."""
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root, so every other test is this one")
    python = opened("auto", "nobody").python
    folder = tmp_path_factory.mktemp("nobody")
    source = Path(tclora.__file__).parent
    for part in ("sandbox", "errors"):
        shutil.copytree(source / part, folder / "tclora" / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tclora" / "__init__.py").touch()
    for path in (folder, *folder.rglob("*"), *list(folder.parents)[:3]):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    command = [str(python), "-B", "-c", AS_NOBODY, str(folder)]
    user = {"user": 65534, "group": 65534, "extra_groups": []}
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, **user)
    assert done.stderr == ""
    expected = [f"{level.backend} passed 1" for level in available(python) if level.usable]
    assert expected
    assert set(expected) <= set(done.stdout.splitlines())


def test_the_python_of_the_docs_runs(opened):
    opened("auto")
    text = (Path(__file__).resolve().parents[2] / "docs" / "sandbox.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert blocks
    for block in blocks:
        exec(compile(block.replace("print(", "str("), "docs/sandbox.md", "exec"), {})


def test_the_jailed_side_needs_nothing_but_the_standard_library():
    """It runs where this package and its dependencies cannot be read."""
    folder = Path(tclora.__file__).parent / "sandbox" / "inside"
    lines = [line for path in folder.glob("*.py") for line in path.read_text().splitlines()]
    outside = [line for line in lines if "tclora." in line and "import" in line and "tclora.sandbox.inside" not in line]
    assert outside == []
