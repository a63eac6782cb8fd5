"""A sentence-transformers model as an encoder: a preset, any Hub id or a local folder, without prompts.

A local folder is never looked up on the network, and code that a model brings along is not run. The number format is
always set, since a checkpoint's own would make a CPU compute in halves, which takes five times as long and is less
exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tclora.config import EncodeConfig
from tclora.encoding.encoder import embed_held
from tclora.encoding.presets import SentenceSource, sentence_source
from tclora.errors import ConfigError, MissingExtraError
from tclora.models.base import quiet_loading
from tclora.shapes import Float

__all__ = ["SentenceEncoder", "load_sentence_encoder"]


@dataclass(frozen=True)
class SentenceEncoder:
    """A loaded sentence-transformers model, the settings' name for it, and what records call it."""

    name: str
    model_name: str
    model: Any
    batch_size: int
    d_embed: int

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        """The model's sentence embeddings, scaled to unit length; an empty text gives a zero row."""
        return embed_held(texts, self._embed, self.d_embed, where=self.model_name)

    def _embed(self, texts: list[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        rows = self.model.encode(
            texts, prompt="", batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return rows.astype(np.float32)


def load_sentence_encoder(config: EncodeConfig) -> SentenceEncoder:
    """Load the sentence-transformers model of the settings, on the GPU where there is one.

    Raises:
        ConfigError: no model is named, it cannot be loaded, or CUDA is asked for and absent.
        MissingExtraError: sentence-transformers, or the package that carries MiniLM, is not installed.
    """
    device = _device(config.device)
    source = sentence_source(config)
    try:
        import sentence_transformers
    except ImportError:
        raise MissingExtraError(
            f"the {config.encoder} encoder needs sentence-transformers",
            where="encode.encoder",
            do="pip install 'tclora[embeddings]', or use encode.encoder: tfidf",
        ) from None
    try:
        with quiet_loading():
            model = sentence_transformers.SentenceTransformer(
                str(source.folder or source.name),
                revision=source.revision,
                device=device,
                local_files_only=source.folder is not None,
                trust_remote_code=False,
                model_kwargs={"dtype": _dtype(config.compute_dtype, device)},
            ).eval()
        d_embed = int(model.encode(["a"], prompt="", show_progress_bar=False).shape[1])
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and its own, by the file at fault
        raise _load_error(source, error) from error
    return SentenceEncoder(config.encoder, source.name, model, config.batch_size, d_embed)


def _device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "the sentence encoder cannot be put on CUDA",
            where="encode.device",
            found="no CUDA device",
            do="set encode.device to auto or cpu",
        )
    return "cuda" if available and name != "cpu" else "cpu"


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device == "cuda" else torch.float32
    return getattr(torch, name)


def _load_error(source: SentenceSource, error: Exception) -> ConfigError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return ConfigError(
        "the sentence-transformers model cannot be loaded",
        where=f"encode.model: {source.name}",
        found=f"{type(error).__name__}: {first_line}",
        expected="a sentence-transformers folder, or a Hub id that can be fetched or is in the local cache",
        do="check the id and the network, name a folder that holds the model, or use encode.encoder: minilm",
    )
