"""A merge leaves the caller's number of threads as it was."""

import torch
from stacks import random_adapter, write_peft

from tclora.adapters import read_adapter
from tclora.merging import merge_adapters


def test_the_callers_threads_come_back(tmp_path):
    before = torch.get_num_threads()
    write_peft(tmp_path / "a", 4, 0)
    torch.set_num_threads(3)
    try:
        for _ in range(5):
            merge_adapters([read_adapter(tmp_path / "a")], "mean")
            merge_adapters([random_adapter("b", 2, 1)], "mean")
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
