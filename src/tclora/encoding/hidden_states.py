"""The base model's own hidden states as an encoder: mean-pooled, centered, unit length.

The states of a language model share one large common part, which makes all cosines near 1; the mean over a sample of
the training texts is taken off before rows are scaled. Texts pass through the base in batches of like length. Source:
Mu and Viswanath 2018, arXiv 1702.01417, section 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.encoding.encoder import embed_held
from tclora.encoding.sampling import sample_rows
from tclora.models import Base, mean_hidden_states
from tclora.shapes import Float

__all__ = ["MEAN_ROWS", "HiddenStatesEncoder", "fit_hidden_states"]

MEAN_ROWS = 1000
"""Texts the mean is taken over; its error falls with the root of this, far below the spread of the rows."""


@dataclass(frozen=True)
class HiddenStatesEncoder:
    """The base model (loaded on first use), and the mean of its pooled states over training texts."""

    base: Callable[[], Base]
    mean: Float[np.ndarray, " d_embed"]
    batch_size: int

    @property
    def name(self) -> str:
        return "hidden_states"

    @property
    def d_embed(self) -> int:
        return len(self.mean)

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        """Mean-pooled last hidden states, less the training mean; an empty text gives a zero row."""
        return embed_held(texts, self._states, self.d_embed, where="hidden_states")

    def _states(self, texts: list[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        return mean_hidden_states(self.base(), texts, batch_size=self.batch_size) - self.mean


def fit_hidden_states(
    texts: Sequence[str], *, base: Callable[[], Base], batch_size: int, seed: int
) -> HiddenStatesEncoder:
    """Measure the common part of the base's states on at most `MEAN_ROWS` of the texts."""
    held = [text for text in texts if text.strip()]
    states = mean_hidden_states(
        base(), [held[index] for index in sample_rows(len(held), MEAN_ROWS, seed=seed)], batch_size=batch_size
    )
    return HiddenStatesEncoder(base, states.astype(np.float64).mean(axis=0).astype(np.float32), batch_size)
