"""What a Ray job relies on, looked at where it runs: one shared folder, one base, one set of versions.

In: the folder of the run and the folders it reads, on the machine that started it. Out: a small value that travels with
every job and refuses to work where a folder is another one, or where other versions of tclora or torch would give other
adapters.
"""

import os
import platform
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tclora.artifacts import digest_of, sha256_file
from tclora.errors import ConfigError

__all__ = ["Contract", "Reply", "new_contract"]

_PACKAGES = ("tclora", "torch", "transformers", "peft")
_NAME = ".probe-"
_SMALL_BYTES = 2**20
_PATIENCE_S = 20.0
"""Network file systems show a new file to other machines after some seconds."""


@dataclass(frozen=True)
class Reply:
    """What one node answered: its name, and the file that it wrote into the shared folder."""

    host: str
    wrote: str


@dataclass(frozen=True)
class Contract:
    """The probe file's place and content; the versions and the folders to read that every node must have."""

    folder: str
    token: str
    versions: Mapping[str, str]
    reads: Mapping[str, str]
    """Digest of what lies in each folder: names and sizes, and the content of small files."""
    working_directory: str

    def enter(self) -> None:
        """Check, and work from where the run was started, if that is here too: paths of a job may be relative to it."""
        self.check()
        with suppress(OSError):
            os.chdir(self.working_directory)

    def check(self) -> None:
        """Refuse to work on this machine if it does not see the run's folder, or runs other versions.

        Raises:
            ConfigError: names the machine, and what it has and should have.
        """
        host, mine = socket.gethostname(), _versions()
        if mine != self.versions:
            differing = sorted(name for name in mine | dict(self.versions) if mine.get(name) != self.versions.get(name))
            raise ConfigError(
                "a node of the cluster has other versions than the machine that started the run",
                where=host,
                found=", ".join(f"{name} {mine.get(name, 'absent')}" for name in differing),
                expected=", ".join(f"{name} {self.versions.get(name, 'absent')}" for name in differing),
                do="install the same versions on every node, then start Ray there again",
            )
        if not _appears(self._path(), self.token):
            raise ConfigError(
                "a node of the cluster does not see the run's folder",
                where=f"{host}, {self.folder}",
                found="no such folder, or another one of that name",
                expected="the file that the run has just written there",
                do="put the output on storage that every node mounts at the same path",
            )
        for folder, digest in self.reads.items():
            if _look_of(Path(folder)) != digest:
                raise ConfigError(
                    "a node of the cluster has not what the run reads",
                    where=f"{host}, {folder}",
                    found="other files" if Path(folder).is_dir() else "no such folder",
                    expected="the same files as on the machine that started the run",
                    do="put the folder on shared storage, or copy it to the same path on every node",
                )

    def answer(self, node: str) -> Reply:
        """Check, and leave a file in the folder for the other direction."""
        self.check()
        path = self._path().with_name(f"{_NAME}{self.token}-{node}")
        try:
            path.write_text(self.token)
        except OSError as error:
            raise ConfigError(
                "a node of the cluster cannot write to the run's folder",
                where=f"{socket.gethostname()}, {self.folder}",
                found=error.strerror or str(error),
                expected="a folder that every node may write to",
                do="run Ray under the same user on every node, or mend the folder's rights",
            ) from None
        return Reply(socket.gethostname(), str(path))

    def confirm(self, reply: Reply) -> None:
        """See what a node wrote.

        Raises:
            ConfigError: its file does not appear here.
        """
        if not _appears(Path(reply.wrote), self.token):
            raise ConfigError(
                "what a node of the cluster writes does not arrive here",
                where=f"{reply.host}, {self.folder}",
                found="the node's file is not in the folder",
                expected="one folder, seen by every node",
                do="put the output on storage that every node mounts at the same path",
            )

    def clear(self) -> None:
        """Remove the probe files."""
        _remove_probes(Path(self.folder))

    def _path(self) -> Path:
        return Path(self.folder) / f"{_NAME}{self.token}"


def new_contract(folder: Path, reads: Sequence[Path] = ()) -> Contract:
    """Write the probe file into `folder`, which this run owns, and remove those of earlier runs."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_probes(folder)
    looks = {str(path.resolve()): _look_of(path) for path in reads}
    contract = Contract(str(folder), uuid.uuid4().hex, _versions(), looks, str(Path.cwd()))
    (folder / f"{_NAME}{contract.token}").write_text(contract.token)
    return contract


def _versions() -> dict[str, str]:
    # Python itself is checked by Ray.
    facts = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            facts[name] = metadata.version(name)
    return facts


def _look_of(folder: Path) -> str:
    """A digest of a folder's files that costs nothing to take: large ones count by name and size."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    sizes = {path.name: path.stat().st_size for path in files}
    small = {path.name: sha256_file(path) for path in files if sizes[path.name] <= _SMALL_BYTES}
    return digest_of({"sizes": sizes, "small": small})


def _appears(path: Path, token: str) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(OSError):
            if path.read_text() == token:
                return True
        # A folder that is not there at all will not come; only a new file in it may be late.
        if not path.parent.is_dir() or time.monotonic() > end:
            return False
        time.sleep(0.5)


def _remove_probes(folder: Path) -> None:
    for path in folder.glob(f"{_NAME}*"):
        path.unlink(missing_ok=True)
