"""The decision of an extension: the new examples embedded, assigned, and laid out in a table.

In: a library, its settings and new examples. Out: an `Assignment`, the embeddings, and an `ExtendRecord`; nothing is
written. Refused: an encoder that does not fit the library's centroids.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from tclora.clustering import load_clusters
from tclora.config import RunConfig
from tclora.data import read_examples
from tclora.encoding import load_encoder
from tclora.errors import ConfigError
from tclora.models import load_base
from tclora.pipeline.extension.assign import Assignment, AssignSettings, Known, assign_new
from tclora.pipeline.extension.data import NewData
from tclora.pipeline.extension.record import ExtendRecord, shares_of
from tclora.pipeline.extension.stages import read_clusters
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.libraries.index import Library, LibraryEntry
from tclora.pipeline.libraries.samples import Samples, load_sample, run_samples, spaced

__all__ = ["decide", "read_samples"]


def decide(
    library: Library, config: RunConfig, settings: AssignSettings, data: NewData, samples: Samples, id_: str
) -> tuple[Assignment, np.ndarray, ExtendRecord]:
    """Where every new example goes, its embedding, and the record with the table.

    Raises:
        ConfigError: the encoder does not fit the library's centroids.
    """
    known = _known(library, samples)
    examples = data.examples
    rows = _encode(library, config, [example.text(config.encode.text) for example in examples])
    if len(rows) and rows.shape[1] != known.model.centroids.shape[1]:
        raise ConfigError("the encoder does not fit the centroids", where=library.root, found=rows.shape[1])
    tasks = [example.task for example in examples]
    found = assign_new(rows, tasks, known, settings, n_train=len(data.train))
    is_dev = np.arange(len(examples)) >= len(data.train)
    names = {int(entry.cluster): entry.name for entry in library.index.adapters if entry.cluster is not None}
    opened = _new_names(library, len(known.model.centroids), len(found.centroids))
    before = {c.index: c.n_train for c in read_clusters(library).clusters if c.index in names}
    record = ExtendRecord(
        id=id_,
        already=False,
        n_given=data.n_given,
        n_known=data.n_known,
        n_train=len(data.train),
        n_dev=len(data.dev),
        n_far=int(found.is_far.sum()),
        threshold=settings.threshold,
        largest=float(found.distance.max()) if len(examples) else 0.0,
        shares=shares_of(found, is_dev, names | opened, before),
        opened=tuple(opened.values()),
        notes=found.notes,
    )
    return found, rows, record


def _new_names(library: Library, k_old: int, k_new: int) -> dict[int, str]:
    taken = {entry.name for entry in library.index.adapters}
    names = {}
    for index in range(k_old, k_new):
        name, copy = cluster_name(index), 2
        while name in taken:
            name, copy = f"{cluster_name(index)}-{copy}", copy + 1
        taken.add(name)
        names[index] = name
    return names


def _encode(library: Library, config: RunConfig, texts: Sequence[str]) -> np.ndarray:
    assert library.index.encoder is not None  # checked before any work
    base = cache(lambda: load_base(config.base))
    return load_encoder(config.encode, library.root / library.index.encoder, base=base).encode(texts)


def _known(library: Library, samples: Samples) -> Known:
    assert library.index.cluster is not None
    model = load_clusters(library.root / library.index.cluster)
    active = tuple(sorted(entry.cluster for entry in library.index.adapters if entry.cluster is not None))
    return Known(model, active, {index: samples[index] for index in active})


def read_samples(library: Library, config: RunConfig) -> Samples:
    """Embeddings of some training examples of each cluster: stored, from the run's, or else made anew."""
    found: Samples = {}
    of_run: Samples | None = None
    for entry in library.index.adapters:
        if entry.cluster is None:
            continue
        stored = load_sample(library, entry)
        if stored is None:
            of_run = run_samples(RunFolder(library.root)) if of_run is None else of_run
            stored = of_run.get(entry.cluster)
        found[entry.cluster] = _encoded_sample(library, config, entry) if stored is None else stored
    return found


def _encoded_sample(library: Library, config: RunConfig, entry: LibraryEntry) -> np.ndarray:
    examples = read_examples([str(library.root / str(entry.train_file))])
    texts = [examples[place].text(config.encode.text) for place in spaced(len(examples)).tolist()]
    return _encode(library, config, texts)
