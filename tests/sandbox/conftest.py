"""Jails to test with: each back end, as root that stays root and as root that becomes nobody."""

import os
from functools import lru_cache
from pathlib import Path

import pytest

from tclora.errors import ConfigError
from tclora.sandbox import Sandbox
from tclora.sandbox.interpreter import find_interpreter

_SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3", "/usr/bin/python3.13", "/usr/bin/python3.12")


@lru_cache
def python_for(user: str) -> Path | None:
    """An interpreter that nobody can read, so that root drops to nobody; or one that it cannot, so that root stays."""
    candidates = (None, *(Path(p) for p in _SYSTEM_PYTHONS if Path(p).exists()))
    for candidate in candidates:
        try:
            found = find_interpreter(candidate)
        except ConfigError:
            continue
        if found.open_to_all == (user == "nobody") or os.geteuid() != 0:
            return Path(found.path)
    return None


def open_sandbox(backend: str, user: str = "any", **rest) -> Sandbox:
    """A sandbox of this kind, or a skip that says why there is none here."""
    if user != "any":
        if os.geteuid() != 0 and user == "root":
            pytest.skip("the tests do not run as root")
        python = python_for(user)
        if python is None:
            pytest.skip(f"no interpreter here makes a jail run as {user}")
        rest["python"] = python
    try:
        return Sandbox(backend=backend, **rest)
    except ConfigError as error:
        pytest.skip(f"{backend} does not work here: {error.found}")


@pytest.fixture(params=["bubblewrap", "landlock"])
def backend(request) -> str:
    return request.param


@pytest.fixture
def sandbox(backend) -> Sandbox:
    return open_sandbox(backend)


@pytest.fixture
def opened():
    """`open_sandbox`, for tests that need limits or users of their own."""
    return open_sandbox
