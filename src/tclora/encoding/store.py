"""From settings to an encoder, and to a folder and back, so that new prompts meet the same space as the old ones.

On disk: `encoder.json` says which encoder it is, `encoder.safetensors` holds what was fitted. Nothing is pickled. The
weights of a base or sentence-transformers model are not copied; `encoder.json` names the latter.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tclora.artifacts import read_json, write_bytes, write_json
from tclora.config import EncodeConfig
from tclora.encoding.encoder import Encoder
from tclora.encoding.hidden_states import MEAN_ROWS, HiddenStatesEncoder, fit_hidden_states
from tclora.encoding.presets import SENTENCE_ENCODERS, sentence_source
from tclora.encoding.sentence import SentenceEncoder, load_sentence_encoder
from tclora.encoding.tfidf import FIT_ROWS, TfidfEncoder, fit_tfidf
from tclora.errors import ArtifactError, ConfigError, DataError
from tclora.models import Base

__all__ = ["fit_encoder", "fit_limit", "load_encoder", "save_encoder", "save_sentence_encoder"]

_FACTS, _ARRAYS = "encoder.json", "encoder.safetensors"


def fit_encoder(
    config: EncodeConfig, train_texts: Sequence[str], *, seed: int, base: Callable[[], Base] | None = None
) -> Encoder:
    """Make the encoder of the settings; `base` is called only by `hidden_states`, and `seed` decides what is sampled.

    Raises:
        ConfigError: the settings name no encoder that can be fitted.
        DataError: there is no text.
        MissingExtraError: the encoder needs a package that is not installed.
    """
    if not any(text.strip() for text in train_texts):
        raise DataError("there is no text to embed", found=f"{len(train_texts)} empty texts", expected="some text")
    if config.encoder == "tfidf":
        return fit_tfidf(train_texts, dim=config.dim, n_features=config.n_features, seed=seed)
    if config.encoder == "hidden_states":
        return fit_hidden_states(train_texts, base=_needed(base), batch_size=config.batch_size, seed=seed)
    if config.encoder in SENTENCE_ENCODERS:
        return load_sentence_encoder(config)
    raise _no_encoder(config)


def fit_limit(config: EncodeConfig) -> int:
    """How many texts `fit_encoder` looks at, at most: a sample of so many gives the same encoder as all of them."""
    return FIT_ROWS if config.encoder == "tfidf" else MEAN_ROWS


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write what `load_encoder` needs into a folder, made if it is missing."""
    facts: dict[str, Any] = {"encoder": encoder.name}
    arrays: dict[str, np.ndarray] = {}
    if isinstance(encoder, TfidfEncoder):
        arrays = {"idf": encoder.idf, "components": encoder.components}
    elif isinstance(encoder, HiddenStatesEncoder):
        arrays = {"mean": encoder.mean}
    elif isinstance(encoder, SentenceEncoder):
        facts["model"] = encoder.model_name
    if arrays:
        from safetensors.numpy import save

        write_bytes(folder / _ARRAYS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    write_json(folder / _FACTS, facts)


def save_sentence_encoder(config: EncodeConfig, folder: Path) -> None:
    """As `save_encoder` for a sentence encoder, of which nothing is fitted: the model need not be loaded for it.

    Raises:
        ConfigError, MissingExtraError: the settings name no model that is there to be loaded.
    """
    write_json(folder / _FACTS, {"encoder": config.encoder, "model": sentence_source(config).name})


def load_encoder(config: EncodeConfig, folder: Path, *, base: Callable[[], Base] | None = None) -> Encoder:
    """The encoder that `save_encoder` wrote; equal texts then give equal rows.

    Raises:
        ArtifactError: the folder holds another encoder than the settings name, or is damaged.
    """
    facts = read_json(folder / _FACTS)
    _same(folder, "encoder", facts, config.encoder)
    if config.encoder == "tfidf":
        arrays = _arrays(folder, {"idf": 1, "components": 2})
        if arrays["components"].shape[1] != len(arrays["idf"]):
            raise _damaged(folder, "word weights and directions of different lengths")
        return TfidfEncoder(arrays["idf"], arrays["components"])
    if config.encoder == "hidden_states":
        return HiddenStatesEncoder(_needed(base), _arrays(folder, {"mean": 1})["mean"], config.batch_size)
    if config.encoder in SENTENCE_ENCODERS:
        _same(folder, "model", facts, sentence_source(config).name)
        return load_sentence_encoder(config)
    raise _no_encoder(config)


def _needed(base: Callable[[], Base] | None) -> Callable[[], Base]:
    if base is None:
        raise ConfigError("the hidden_states encoder needs a base model", where="encode.encoder", do="name a base")
    return base


def _no_encoder(config: EncodeConfig) -> ConfigError:
    return ConfigError(
        f"'{config.encoder}' embeds no texts",
        where="encode.encoder",
        expected="tfidf, minilm, paper, hidden_states or sentence_transformers",
        do="read precomputed embeddings with read_precomputed",
    )


def _arrays(folder: Path, axes: Mapping[str, int]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load((folder / _ARRAYS).read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(folder, str(error)) from None
    found = {name: (array.ndim, str(array.dtype)) for name, array in arrays.items()}
    if found != {name: (n_axes, "float32") for name, n_axes in axes.items()}:
        raise _damaged(folder, f"arrays {found}")
    return arrays


def _same(folder: Path, key: str, facts: Any, expected: object) -> None:
    found = facts.get(key) if isinstance(facts, dict) else facts
    if found != expected:
        raise ArtifactError(
            f"the folder holds another {key}", where=folder, found=found, expected=expected, do="fit the encoder again"
        )


def _damaged(folder: Path, found: str) -> ArtifactError:
    return ArtifactError("the encoder's file is damaged", where=folder / _ARRAYS, found=found, do="fit it again")
