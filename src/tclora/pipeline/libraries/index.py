"""A library of adapters as a folder: which adapters it has, in order, and the clusters they belong to.

In: a run folder whose adapters are trained, or a folder with `library.json`. Out: `Library`. A run folder is a library
as it stands; `library.json` is written when it is first changed, and then it alone says what the library is. A name is
not a place: an entry names its folder and its cluster, so renaming and removing move no file and no label. The index
is one file, replaced atomically: whatever is done to a library has happened wholly or not at all.
Refused: a folder that is neither, an index that is damaged, and adapters that are not those of the index.
"""

from dataclasses import dataclass
from pathlib import Path

from tclora.artifacts import MANIFEST_NAME, digest_of, read_json, read_manifest, sha256_file, write_json
from tclora.errors import ArtifactError, ConfigError, UnknownNameError
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.records import ClusterRecord, TrainRecord, from_json, to_json

__all__ = ["INDEX_NAME", "Extension", "Library", "LibraryEntry", "LibraryIndex", "open_library", "write_index"]

INDEX_NAME = "library.json"
_FORMAT = 1
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LibraryEntry:
    """One adapter. Paths are relative to the library; losses are nats per response token."""

    name: str
    folder: str
    sha256: str
    """Of the adapter's weights file."""
    cluster: int | None = None
    """The row of the centroids that it belongs to; None where it has no cluster."""
    n_examples: int | None = None
    """Examples it was trained on, where that is known."""
    n_waiting: int = 0
    """Examples of its cluster that it has not been trained on yet."""
    train_loss: float | None = None
    dev_loss: float | None = None
    train_file: str | None = None
    dev_file: str | None = None
    sample: str | None = None
    """Embeddings of some of its training examples; None: to be read from the run."""
    source: str = "trained by the run"


@dataclass(frozen=True)
class Extension:
    """One `tclora extend` that was carried out."""

    id: str
    folder: str
    data_digest: str
    settings: dict[str, str]
    n_given: int
    n_known: int
    """Examples that the library had already."""
    n_outliers: int
    assigned: dict[str, int]
    """New training examples by adapter."""
    opened: tuple[str, ...]
    retrained: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LibraryIndex:
    """All that `library.json` says."""

    format: int
    adapters: tuple[LibraryEntry, ...]
    cluster: str | None = None
    """The folder of the present cluster model; None where the library has no clusters."""
    encoder: str | None = None
    config: str | None = None
    merge: str | None = None
    """The folder of the present merged adapters."""
    base_digest: str | None = None
    origin: str | None = None
    """Digest of the library that this one was copied from."""
    extensions: tuple[Extension, ...] = ()

    @property
    def digest(self) -> str:
        """What the library is made of, whatever its adapters are called."""
        made = [[entry.sha256, entry.cluster, entry.train_file, entry.n_waiting] for entry in self.adapters]
        return digest_of([made, self.cluster, [extension.id for extension in self.extensions]])


@dataclass(frozen=True)
class Library:
    """An index and the folder that its paths start from."""

    root: Path
    index: LibraryIndex

    @property
    def belongs_to_run(self) -> bool:
        """Whether a run owns the files in `library/`: it would train a missing adapter again."""
        return (self.root / "library" / MANIFEST_NAME).is_file()

    def folder(self, entry: LibraryEntry) -> Path:
        """Where the entry's adapter lies."""
        return self.root / entry.folder

    def entry(self, name: str) -> LibraryEntry:
        """The entry of this name.

        Raises:
            UnknownNameError: there is none; names those that there are.
        """
        for entry in self.index.adapters:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.index.adapters)
        raise UnknownNameError(f"the library has no adapter '{name}'", where=self.root, expected=f"one of {names}")

    def state(self, entry: LibraryEntry) -> str:
        """`whole`, `changed` (other weights than the index says) or `missing`."""
        weights = self.folder(entry) / _WEIGHTS
        if not weights.is_file():
            return "missing"
        return "whole" if sha256_file(weights) == entry.sha256 else "changed"

    def check_whole(self) -> None:
        """Refuse a library whose adapters are not those of its index.

        Raises:
            ArtifactError: names the first such adapter.
        """
        for entry in self.index.adapters:
            state = self.state(entry)
            if state != "whole":
                raise ArtifactError(
                    f"the adapter '{entry.name}' is {state} since the library's index was written",
                    where=self.folder(entry),
                    expected=f"weights of sha256 {entry.sha256[:12]}…",
                    do=f"put it back, or remove {INDEX_NAME} to take the run's adapters as they are now"
                    if self.belongs_to_run
                    else f"put it back, or tclora library remove {self.root} {entry.name}",
                )


def open_library(folder: str | Path) -> Library:
    """The library in a folder.

    Raises:
        ConfigError: there is no such folder, or it holds no library.
        ArtifactError: the index is damaged, or the run has not finished training.
    """
    root = Path(folder).expanduser()
    if (root / INDEX_NAME).is_file():
        return Library(root, _read_index(root / INDEX_NAME))
    run = RunFolder(root)
    if not (root / "config.yaml").is_file() or not run.library.is_dir():
        raise ConfigError(
            "the folder holds no library",
            where=root,
            found="no such folder" if not root.is_dir() else f"neither {INDEX_NAME} nor a run's library/",
            expected="a run folder, or the output of `tclora library import`",
            do="check the path",
        )
    if read_manifest(run.library) is None or read_manifest(run.cluster) is None:
        raise ArtifactError(
            "the run has not finished training", where=root, do="tclora train CONFIG, with the run's config"
        )
    return Library(root, _index_of_run(run))


def write_index(library: Library) -> None:
    """Replace the index in one step."""
    write_json(library.root / INDEX_NAME, to_json(library.index))


def _read_index(path: Path) -> LibraryIndex:
    data = read_json(path)
    if isinstance(data, dict) and data.get("format") != _FORMAT:
        raise ArtifactError(
            "the library's index is of another release",
            where=path,
            found=f"format {data.get('format')}",
            expected=f"format {_FORMAT}",
            do="use the tclora that wrote it",
        )
    try:
        return from_json(LibraryIndex, data)
    except ArtifactError as error:
        raise ArtifactError(error.what, where=path, found=error.found, do="restore it from a copy") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtifactError("the library's index cannot be read", where=path, found=error) from None


def _index_of_run(run: RunFolder) -> LibraryIndex:
    clusters = from_json(ClusterRecord, read_json(run.cluster / "record.json")).clusters
    manifest = read_manifest(run.library)
    return LibraryIndex(
        format=_FORMAT,
        adapters=tuple(_entry_of_run(run, cluster.index, cluster.n_dev > 0) for cluster in clusters),
        cluster="cluster",
        encoder="encode/encoder" if (run.encode / "encoder").is_dir() else None,
        config="config.yaml",
        merge="merge",
        base_digest=manifest.inputs.get("base") if manifest else None,
    )


def _entry_of_run(run: RunFolder, index: int, has_dev: bool) -> LibraryEntry:
    name = cluster_name(index)
    weights = run.library / name / _WEIGHTS
    if not weights.is_file():
        raise ArtifactError(
            "an adapter of the run is missing", where=run.library / name, do="run tclora train CONFIG again"
        )
    record = from_json(TrainRecord, read_json(run.library / name / "record.json"))
    return LibraryEntry(
        name=name,
        folder=f"library/{name}",
        sha256=sha256_file(weights),
        cluster=index,
        n_examples=record.n_examples,
        train_loss=record.train_loss,
        dev_loss=record.dev_loss,
        train_file=f"cluster/{name}.train.jsonl",
        dev_file=f"cluster/{name}.dev.jsonl" if has_dev else None,
    )
