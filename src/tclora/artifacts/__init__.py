"""Folders that are either finished or visibly not: digests, atomic writes, manifests and locks."""

from tclora.artifacts.files import (
    digest_of,
    fsync_folder,
    named_refusals,
    partial_name,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
)
from tclora.artifacts.known_digests import begin_digests, known_sha256
from tclora.artifacts.lock import folder_lock
from tclora.artifacts.manifest import (
    MANIFEST_NAME,
    Manifest,
    file_digests,
    is_complete,
    machine_facts,
    read_manifest,
    version_facts,
    write_manifest,
)
from tclora.artifacts.staged import is_free, refuse_taken, remove_partials, staged_folder

__all__ = [
    "MANIFEST_NAME",
    "Manifest",
    "begin_digests",
    "digest_of",
    "file_digests",
    "folder_lock",
    "fsync_folder",
    "is_complete",
    "is_free",
    "known_sha256",
    "machine_facts",
    "named_refusals",
    "partial_name",
    "read_json",
    "read_manifest",
    "refuse_taken",
    "remove_partials",
    "sha256_file",
    "staged_folder",
    "version_facts",
    "write_bytes",
    "write_json",
    "write_manifest",
]
