"""Adapters made in memory, with factors of very different size, so that balancing them matters."""

import torch
from adapter_files import PATHS

from tclora.adapters import Adapter, LoraFactors, make_adapter


def random_adapter(ranks: dict[str, int], embeddings: tuple[str, ...] = (), seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: LoraFactors(100 * torch.randn(r, 16, generator=generator), 0.01 * torch.randn(16, r, generator=generator))
        for path, r in ranks.items()
    }
    return make_adapter("made", factors, embeddings=embeddings, base_model="org/base", task_type="CAUSAL_LM")


RANKS = {path: r for r, path in enumerate(PATHS, start=1)}
