"""A sentence-transformers model as an encoder: any Hub id or local folder, without prompts.

The paper embeds with `sentence-transformers/sentence-t5-xxl`. A local folder is never looked up on the network, and
code that a model brings along is not run.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tclora.encoding.encoder import unit_rows
from tclora.errors import ConfigError, MissingExtraError
from tclora.shapes import Float

__all__ = ["SentenceEncoder", "load_sentence_encoder"]


@dataclass(frozen=True)
class SentenceEncoder:
    """A loaded sentence-transformers model and the id or folder it came from."""

    model_name: str
    model: Any
    batch_size: int

    @property
    def name(self) -> str:
        return "sentence_transformers"

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        """The model's sentence embeddings, scaled to unit length; an empty text gives a zero row."""
        rows = np.zeros((len(texts), self.model.get_embedding_dimension()), dtype=np.float32)
        held = [index for index, text in enumerate(texts) if text.strip()]
        if held:
            found = self.model.encode(
                [texts[index] for index in held],
                prompt="",
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            rows[held] = unit_rows(found.astype(np.float32), where=self.model_name)
        return rows


def load_sentence_encoder(model: str | None, *, batch_size: int) -> SentenceEncoder:
    """Load a sentence-transformers model, on the GPU where there is one.

    Raises:
        ConfigError: no model is named, or it cannot be loaded.
        MissingExtraError: sentence-transformers is not installed.
    """
    if not model:
        raise ConfigError(
            "the sentence_transformers encoder needs a model",
            where="encode.model",
            expected="a Hub id or a folder, e.g. sentence-transformers/sentence-t5-xxl",
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError(
            "the sentence_transformers encoder needs sentence-transformers",
            where="encode.encoder",
            do="pip install 'tclora[embeddings]', or use encode.encoder: tfidf",
        ) from None
    path = os.path.expanduser(model)
    local = os.path.isdir(path)
    try:
        loaded = SentenceTransformer(path if local else model, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "the sentence-transformers model cannot be loaded",
            where=f"encode.model: {model}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            do="check the id and the network, or name a folder that holds the model",
        ) from None
    return SentenceEncoder(model, loaded.eval(), batch_size)
