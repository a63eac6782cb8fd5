"""Rows in groups that any algorithm must find, with the facts that some algorithms read."""

from pathlib import Path

import numpy as np
import torch

from tclora.adapters import LoraFactors, make_adapter, write_adapter
from tclora.clustering import ExampleFacts

SIZES = (160, 120, 90, 60)


def planted_rows(seed: int = 0, d_embed: int = 24, sizes: tuple[int, ...] = SIZES) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows near orthogonal directions, and their groups, which are of descending size."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.eye(d_embed)[groups] + 0.04 * rng.standard_normal((len(groups), d_embed))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), groups


def planted_facts(groups: np.ndarray, library: Path | None = None) -> ExampleFacts:
    """Two tasks for each group, named by it; every row ten tokens long."""
    tasks = [f"family{group}/task{index % 2}" for index, group in enumerate(groups.tolist())]
    return ExampleFacts(tasks=tasks, n_tokens=np.full(len(groups), 10), library=library)


def planted_library(folder: Path, n_groups: int = 4, d: int = 12, r: int = 2) -> Path:
    """One adapter for each task of `planted_facts`; those of one family are nearly alike, others unrelated."""
    torch_rng = torch.Generator().manual_seed(0)
    for group in range(n_groups):
        lora_a, lora_b = torch.randn(r, d, generator=torch_rng), torch.randn(d, r, generator=torch_rng)
        for task in range(2):
            near = LoraFactors(lora_a + 0.05 * torch.randn(r, d, generator=torch_rng), lora_b)
            adapter = make_adapter(f"family{group}-task{task}", {"model.layers.0.self_attn.q_proj": near})
            write_adapter(adapter, folder / f"family{group}-task{task}")
    return folder
