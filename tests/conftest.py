"""Fixtures every test may use: the shared data and models, one torch thread, local seeds."""

import os
import uuid
from pathlib import Path

import pytest
import torch

# Two torch threads on a busy two-core machine can be several times slower than one.
torch.set_num_threads(1)

SHARED = Path(os.environ.get("TCLORA_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models; the test is skipped, saying so, where it is absent."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"needs the shared data and models; none at {SHARED} (set TCLORA_SHARED)")
    return SHARED


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def ray_token(tmp_path_factory) -> Path:
    """A token of these tests for Ray, which would otherwise write one into the user's home. It is kept to the end."""
    path = tmp_path_factory.mktemp("ray") / "token"
    path.write_text(uuid.uuid4().hex)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    return path
