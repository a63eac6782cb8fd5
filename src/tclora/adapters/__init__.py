"""LoRA adapters in memory and on disk: read any plain PEFT LoRA, write the safest one, check before merging."""

from tclora.adapters.base import BaseShapes, base_shapes, check_against_base
from tclora.adapters.checks import AdapterSummary, check_mergeable, check_same_base, inspect_adapter
from tclora.adapters.factors import LoraFactors, balance_factors
from tclora.adapters.lora import Adapter, AdapterSource, ModuleShape, make_adapter, weights_digest
from tclora.adapters.new_folder import refuse_existing
from tclora.adapters.peft_format import read_adapter
from tclora.adapters.peft_writer import fill_adapter_folder, write_adapter

__all__ = [
    "Adapter",
    "AdapterSource",
    "AdapterSummary",
    "BaseShapes",
    "LoraFactors",
    "ModuleShape",
    "balance_factors",
    "base_shapes",
    "check_against_base",
    "check_mergeable",
    "check_same_base",
    "fill_adapter_folder",
    "inspect_adapter",
    "make_adapter",
    "read_adapter",
    "refuse_existing",
    "weights_digest",
    "write_adapter",
]
