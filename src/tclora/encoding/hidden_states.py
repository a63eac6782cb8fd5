"""The base model's own hidden states as an encoder: mean-pooled, centered, unit length.

The states of a language model share one large common part, which makes all cosines near 1; the mean over a sample of
the training texts is taken off before rows are scaled. Source: Mu and Viswanath 2018, arXiv 1702.01417, section 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.encoding.encoder import unit_rows
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

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n_examples d_embed"]:
        """Mean-pooled last hidden states, less the training mean; an empty text gives a zero row."""
        rows = np.zeros((len(texts), len(self.mean)), dtype=np.float32)
        held = [index for index, text in enumerate(texts) if text.strip()]
        if held:
            states = mean_hidden_states(self.base(), [texts[index] for index in held], batch_size=self.batch_size)
            rows[held] = unit_rows(states - self.mean, where="hidden_states")
        return rows


def fit_hidden_states(
    texts: Sequence[str], *, base: Callable[[], Base], batch_size: int, seed: int
) -> HiddenStatesEncoder:
    """Measure the common part of the base's states on at most `MEAN_ROWS` of the texts."""
    held = [text for text in texts if text.strip()]
    if len(held) > MEAN_ROWS:
        chosen: list[int] = np.random.default_rng(seed).choice(len(held), MEAN_ROWS, replace=False).tolist()
        held = [held[index] for index in sorted(chosen)]
    states = mean_hidden_states(base(), held, batch_size=batch_size)
    return HiddenStatesEncoder(base, states.astype(np.float64).mean(axis=0).astype(np.float32), batch_size)
