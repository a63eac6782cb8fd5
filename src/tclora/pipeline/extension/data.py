"""The examples of an extension: read, freed of those that the library has, and split.

In: files and a library. Out: `NewData`. An example that is already in a training or dev file of the library is known
and left out, so that extending twice by the same file adds nothing. The rest is split as the run split its own: by a
hash of the prompt. Refused: files that cannot be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tclora.artifacts import digest_of
from tclora.config import RunConfig
from tclora.data import Example, read_examples, split_dev
from tclora.pipeline.libraries.index import Library

__all__ = ["NewData", "known_keys", "read_new"]


@dataclass(frozen=True)
class NewData:
    """The new examples, dev after train, and the digest of their content in whatever order."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    n_given: int
    n_known: int
    digest: str
    """Of all that was given, known or not."""

    @property
    def examples(self) -> tuple[Example, ...]:
        """Train, then dev."""
        return self.train + self.dev


def read_new(paths: Sequence[str], library: Library, config: RunConfig) -> NewData:
    """Read the files and take out what the library has.

    Raises:
        DataError: a file cannot be read as examples.
    """
    given = read_examples(list(paths), format=config.data.format, fields=config.data.fields)
    digest = digest_of(sorted(example.key for example in given))
    known = known_keys(library)
    new = [example for example in given if example.key not in known]
    n_prompts = len({example.prompt_key for example in new})
    # One prompt cannot be split: then all is for training.
    train, dev = split_dev(new, config.data.dev_fraction, seed=config.seed) if n_prompts > 1 else (new, [])
    return NewData(tuple(train), tuple(dev), len(given), len(given) - len(new), digest)


def known_keys(library: Library) -> frozenset[str]:
    """The keys of every example in the library's training and dev files."""
    files = {path for entry in library.index.adapters for path in (entry.train_file, entry.dev_file) if path}
    keys: set[str] = set()
    for path in sorted(files):
        examples = read_examples([str(library.root / path)], allow_empty=True)
        keys.update(example.key for example in examples)
    return frozenset(keys)
