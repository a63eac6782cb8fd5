"""Batches of a merge take the same memory, one after another; nothing of a batch may show in another's result."""

import pytest
import torch
from stacks import random_adapter

from tclora.merging import MERGE_METHODS, merge_adapters, plan

METHODS = tuple(entry.name for entry in MERGE_METHODS.entries() if not entry.facts.get("statistics"))


def merged(method: str) -> dict[str, torch.Tensor]:
    """All factors of a merge of one module a batch, so that the memory is taken four times."""
    n = MERGE_METHODS.entry(method).facts.get("most_adapters", 3)
    params = {"max_iter": 10, "cp_rank": 3} if method == "tc_lora" else {}
    given = [random_adapter(f"adapter {k}", 2, k, layers=4) for k in range(n)]
    modules = merge_adapters(given, method, params=params, workers=1).adapter.modules
    return {f"{name}.{side}": getattr(modules[name], side) for name in modules for side in ("lora_a", "lora_b")}


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_changes_no_bit(method, monkeypatch):
    monkeypatch.setattr(plan, "_MOST_MODULES", 1)
    shared = merged(method)
    monkeypatch.setattr(plan.Room, "take", lambda self, side, *sizes, dtype: torch.empty(*sizes, dtype=dtype))
    fresh = merged(method)
    assert shared.keys() == fresh.keys()
    assert all(torch.equal(shared[name], fresh[name]) for name in shared)


def test_a_room_grows_and_keeps_types_apart():
    room = plan.Room()
    first = room.take("out", 2, 3, dtype=torch.float32)
    assert room.take("out", 3, 2, dtype=torch.float32).data_ptr() == first.data_ptr()
    assert room.take("in", 2, 3, dtype=torch.float32).data_ptr() != first.data_ptr()
    assert room.take("out", 5, 5, dtype=torch.float32).shape == (5, 5)
    assert room.take("out", 2, 2, dtype=torch.float64).dtype == torch.float64
