"""How unsure the model is of what comes next: the entropy of its prediction behind every token of a text.

In: a `Base` and prompts. Out: nats per token, with a gradient for whatever is hooked on the base. No response is read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tclora.models.base import Base
from tclora.models.scoring import TokenBatch, scored_logits
from tclora.models.tokens import Tokens
from tclora.shapes import Float

__all__ = ["scored_everywhere", "token_entropies"]


def scored_everywhere(ids: Sequence[int]) -> Tokens:
    """Tokens of which every position is scored, the last one too: it predicts how a response begins.

    A batch leaves out the last token of its longest row, from which nothing is predicted; a stand-in takes that place.
    """
    return Tokens((*ids, 0), 1)


def token_entropies(base: Base, batch: TokenBatch) -> Float[Tensor, " n_scored"]:
    """Entropy of the next-token distribution at each scored position, row by row, in nats; differentiable."""
    log_p = torch.log_softmax(scored_logits(base, batch)(slice(None)).float(), dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)
