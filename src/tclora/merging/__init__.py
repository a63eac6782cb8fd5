"""Several adapters of one base model to one: every method behind one interface, proven by an identity check."""

from tclora.merging.card import merge_card
from tclora.merging.engine import resolve_workers
from tclora.merging.identity import identity_through
from tclora.merging.merge import MergeResult, merge_adapters, merge_record
from tclora.merging.method import (
    MERGE_METHODS,
    MergedStack,
    MergeFunction,
    default_params,
    default_weight,
    parse_params,
)
from tclora.merging.methods.alignment import TsvParams, WudiParams, tsv, wudi
from tclora.merging.methods.factors import (
    LinearFactorsParams,
    RobustMergeParams,
    linear_factors,
    robust_merge,
    sum_factors,
)
from tclora.merging.methods.isotropic import IsoCParams, IsoCtsParams, iso_c, iso_cts
from tclora.merging.methods.lego import LegoParams, lego
from tclora.merging.methods.linear import MeanParams, TaskArithmeticParams, cat, mean, task_arithmetic
from tclora.merging.methods.spaces import core_space, knots
from tclora.merging.methods.sparse import breadcrumbs, dare, dare_ties, della, magnitude_prune, ties
from tclora.merging.methods.sparse_params import (
    BreadcrumbsParams,
    CoreSpaceParams,
    DareParams,
    DareTiesParams,
    DellaParams,
    KnotsParams,
    MagnitudePruneParams,
    TiesParams,
)
from tclora.merging.methods.spectral import SvdParams, svd
from tclora.merging.methods.spherical import KarcherParams, SphericalParams, karcher, multislerp, nuslerp, slerp
from tclora.merging.methods.tc_lora import COMPONENT_RULES, TcLoraParams, component_weights, tc_lora
from tclora.merging.methods.tc_lora_polar import TcLoraPolarParams, tc_lora_polar
from tclora.merging.methods.tucker import TuckerParams, tucker
from tclora.merging.module_patterns import match_modules
from tclora.merging.plan import MergePlan, ModuleGroup, plan_merge, stack_modules
from tclora.merging.settings import ModuleSettings, Override, resolve_settings
from tclora.merging.weights import resolve_weights

__all__ = [
    "COMPONENT_RULES",
    "MERGE_METHODS",
    "BreadcrumbsParams",
    "CoreSpaceParams",
    "DareParams",
    "DareTiesParams",
    "DellaParams",
    "IsoCParams",
    "IsoCtsParams",
    "KarcherParams",
    "KnotsParams",
    "LegoParams",
    "LinearFactorsParams",
    "MagnitudePruneParams",
    "MeanParams",
    "MergeFunction",
    "MergePlan",
    "MergeResult",
    "MergedStack",
    "ModuleGroup",
    "ModuleSettings",
    "Override",
    "RobustMergeParams",
    "SphericalParams",
    "SvdParams",
    "TaskArithmeticParams",
    "TcLoraParams",
    "TcLoraPolarParams",
    "TiesParams",
    "TsvParams",
    "TuckerParams",
    "WudiParams",
    "breadcrumbs",
    "cat",
    "component_weights",
    "core_space",
    "dare",
    "dare_ties",
    "default_params",
    "default_weight",
    "della",
    "identity_through",
    "iso_c",
    "iso_cts",
    "karcher",
    "knots",
    "lego",
    "linear_factors",
    "magnitude_prune",
    "match_modules",
    "mean",
    "merge_adapters",
    "merge_card",
    "merge_record",
    "multislerp",
    "nuslerp",
    "parse_params",
    "plan_merge",
    "resolve_settings",
    "resolve_weights",
    "resolve_workers",
    "robust_merge",
    "slerp",
    "stack_modules",
    "sum_factors",
    "svd",
    "task_arithmetic",
    "tc_lora",
    "tc_lora_polar",
    "ties",
    "tsv",
    "tucker",
    "wudi",
]
