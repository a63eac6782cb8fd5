"""Several adapters of one base model to one: every method behind one interface, proven by an identity check."""

from tclora.merging.card import merge_card
from tclora.merging.merge import MergeResult, merge_adapters, merge_record
from tclora.merging.method import (
    MERGE_METHODS,
    MergedStack,
    MergeFunction,
    default_params,
    default_weight,
    parse_params,
)
from tclora.merging.methods.linear import MeanParams, mean
from tclora.merging.methods.spectral import SvdParams, svd
from tclora.merging.methods.tc_lora import COMPONENT_RULES, TcLoraParams, component_weights, tc_lora
from tclora.merging.plan import MergePlan, plan_merge
from tclora.merging.weights import resolve_weights

__all__ = [
    "COMPONENT_RULES",
    "MERGE_METHODS",
    "MeanParams",
    "MergeFunction",
    "MergePlan",
    "MergeResult",
    "MergedStack",
    "SvdParams",
    "TcLoraParams",
    "component_weights",
    "default_params",
    "default_weight",
    "mean",
    "merge_adapters",
    "merge_card",
    "merge_record",
    "parse_params",
    "plan_merge",
    "resolve_weights",
    "svd",
    "tc_lora",
]
