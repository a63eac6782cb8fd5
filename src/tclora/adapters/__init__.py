"""LoRA adapters in memory and on disk: read any plain PEFT LoRA, write the safest one, check before merging."""

from tclora.adapters.base import BaseShapes, base_shapes, check_against_base
from tclora.adapters.checks import AdapterSummary, check_mergeable, check_same_base, inspect_adapter
from tclora.adapters.factors import LoraFactors, all_finite, balance_factors
from tclora.adapters.locate import typed_path
from tclora.adapters.lora import Adapter, AdapterSource, ModuleShape, content_key, make_adapter, weights_digest
from tclora.adapters.output_place import refuse_existing
from tclora.adapters.peft_format import read_adapter
from tclora.adapters.peft_writer import fill_adapter_folder, write_adapter
from tclora.adapters.serving import (
    SERVERS,
    Finding,
    check_limit,
    rank_limit,
    serving_facts,
    serving_findings,
    verdict_of,
)
from tclora.adapters.stored_modules import stored_factors
from tclora.adapters.targets import leaf_of
from tclora.adapters.threads import map_in_threads, one_thread, own_threads

__all__ = [
    "SERVERS",
    "Adapter",
    "AdapterSource",
    "AdapterSummary",
    "BaseShapes",
    "Finding",
    "LoraFactors",
    "ModuleShape",
    "all_finite",
    "balance_factors",
    "base_shapes",
    "check_against_base",
    "check_limit",
    "check_mergeable",
    "check_same_base",
    "content_key",
    "fill_adapter_folder",
    "inspect_adapter",
    "leaf_of",
    "make_adapter",
    "map_in_threads",
    "one_thread",
    "own_threads",
    "rank_limit",
    "read_adapter",
    "refuse_existing",
    "serving_facts",
    "serving_findings",
    "stored_factors",
    "typed_path",
    "verdict_of",
    "weights_digest",
    "write_adapter",
]
