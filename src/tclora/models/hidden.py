"""Texts as vectors: the mean of a base model's last hidden states.

In: texts. Out: one float32 row for each, not normalized. The bos position is left out of the mean where a text has
other tokens: it carries a large constant vector (an attention sink) that would make all texts look alike. Refused: a
batch size below 1.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tclora.models.base import Base
from tclora.models.scoring import batches_by_length
from tclora.models.tokens import tokenize_text

__all__ = ["mean_hidden_states"]


@torch.no_grad()
def mean_hidden_states(base: Base, texts: Sequence[str], *, batch_size: int) -> np.ndarray:
    """Mean-pool the last hidden state over the tokens of each text.

    Returns:
        float32 (n, d), in the order of `texts`, in the model's own units.

    Raises:
        ConfigError: `batch_size` is below 1.
    """
    rows = [tokenize_text(base, text).ids for text in texts]
    bos = base.tokenizer.bos_token_id
    out = np.zeros((len(rows), base.model.get_input_embeddings().weight.shape[1]), dtype=np.float32)
    for indices in batches_by_length([len(row) for row in rows], batch_size, base.device):
        width = len(rows[indices[0]])
        ids = torch.zeros(len(indices), width, dtype=torch.long)
        keep = torch.zeros(len(indices), width)
        for position, index in enumerate(indices):
            row = rows[index]
            ids[position, : len(row)] = torch.tensor(row)
            keep[position, int(len(row) > 1 and row[0] == bos) : len(row)] = 1
        ids, keep = ids.to(base.device), keep.to(base.device)
        hidden = base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state.float()
        pooled = (hidden * keep[..., None]).sum(dim=1) / keep.sum(dim=1, keepdim=True)
        out[indices] = pooled.cpu().numpy()
    return out
