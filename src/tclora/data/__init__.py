"""Instruction data: examples, the file formats they come in, and which of them take part."""

from tclora.data.choices import read_choice_items
from tclora.data.example import ChoiceItem, Example, Turn
from tclora.data.files import expand_paths
from tclora.data.reader import count_examples, iter_examples, read_examples, write_examples
from tclora.data.sampling import hold_out, sample_examples, split_dev, task_groups

__all__ = [
    "ChoiceItem",
    "Example",
    "Turn",
    "count_examples",
    "expand_paths",
    "hold_out",
    "iter_examples",
    "read_choice_items",
    "read_examples",
    "sample_examples",
    "split_dev",
    "task_groups",
    "write_examples",
]
