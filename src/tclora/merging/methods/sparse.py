"""Entry-wise methods: prune each adapter, elect signs, combine; on the deltas themselves, as published.

In: a stack and weights. Out: an adapter of rank `rank`, the best approximation of the merged matrix, which has full
rank where `space` is `dense`; what that loses is the relative error. Entry by entry there is no low-rank form, so the
deltas are read in tiles, several times: O(n d_out d_in r) for each reading. All act on deltas, never on `lora_a` and
`lora_b` apart as PEFT's methods of these names do, so how an adapter is factored does not show.

In the spaces `knots` and `core` the same rules act on far fewer entries and nothing is lost to the rank; the result
then depends on a basis, chosen from the adapters.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.errors import ConfigError
from tclora.merging.entries import Election, EntryRule, enter_space, merge_entries, whole_bounds
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.sparse_params import (
    BreadcrumbsParams,
    DareParams,
    DareTiesParams,
    DellaParams,
    MagnitudePruneParams,
    TiesParams,
    densities,
)
from tclora.shapes import Float

__all__ = ["breadcrumbs", "dare", "dare_ties", "della", "magnitude_prune", "prepare_trim", "ties"]

_LEAVES = "rank R, by default P"
_PASSES = "O(n d_out d_in r) a reading"
# Masks belong to the places of the adapters, which are ordered by their bytes; so other bytes of one delta, or another
# size of it, may draw other masks. Given the order, both invariances hold.
_RANDOM_BREAKS = ("alone", "scale", "gauge")


def prepare_trim(stacks: Callable[[], Iterator[ModuleStack]], params: MagnitudePruneParams) -> MagnitudePruneParams:
    """Find the bounds of `trim="adapter"`, which need all modules; other parameters are returned as they are."""
    if params.trim == "module" or params.bounds is not None:
        return params
    n = next(stacks()).n
    return replace(params, bounds=whole_bounds(stacks, densities(params, n), params.space))


@MERGE_METHODS.register(
    "magnitude_prune",
    source="PEFT `magnitude_prune`; the trim of arXiv 2306.01708",
    params=MagnitudePruneParams,
    needs="adapters",
    leaves=_LEAVES,
    cost=_PASSES,
    breaks=("alone",),
    prepare=prepare_trim,
)
def magnitude_prune(
    stack: ModuleStack, params: MagnitudePruneParams, adapter_weights: Float[Tensor, "m n"]
) -> MergedStack:
    """Weighted sum of deltas of which only the largest entries stay."""
    rule = _trimmed(stack, params)
    return _merge(stack, params, adapter_weights, rule)


@MERGE_METHODS.register(
    "ties",
    source="Yadav et al. 2023, arXiv 2306.01708",
    params=TiesParams,
    needs="adapters",
    leaves=_LEAVES,
    cost=_PASSES,
    default_weight="one",
    breaks=("alone",),
    prepare=prepare_trim,
)
def ties(stack: ModuleStack, params: TiesParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """TIES: keep the largest entries, elect a sign for each, and average those that agree with it.

    `merge_entries` and `combine` hold the three conventions in use; with weights of 1 they are one.
    """
    rule = replace(_trimmed(stack, params), election=Election(params.elect, params.convention, params.normalize))
    return _merge(stack, params, adapter_weights, rule)


@MERGE_METHODS.register(
    "dare",
    source="Yu et al. 2023, arXiv 2311.03099",
    params=DareParams,
    needs="adapters",
    leaves=_LEAVES,
    cost=_PASSES,
    breaks=_RANDOM_BREAKS,
)
def dare(stack: ModuleStack, params: DareParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """DARE: drop entries at random, rescale those that stay, and take the weighted sum.

    Over seeds the mean of the merged matrix is the weighted sum itself, where `rescale` is `inverse`.
    """
    rule = EntryRule("random", densities(params, stack.n), rescale=params.rescale, seed=params.seed)
    return _merge(stack, params, adapter_weights, rule)


@MERGE_METHODS.register(
    "dare_ties",
    source="Yu et al. 2023, arXiv 2311.03099, with the election of arXiv 2306.01708",
    params=DareTiesParams,
    needs="adapters",
    leaves=_LEAVES,
    cost=_PASSES,
    breaks=_RANDOM_BREAKS,
)
def dare_ties(stack: ModuleStack, params: DareTiesParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """DARE, then the elected sign of TIES: the weighted sum of the entries that agree with it."""
    rule = EntryRule(
        "random",
        densities(params, stack.n),
        rescale=params.rescale,
        seed=params.seed,
        election=Election(params.elect, params.convention, params.normalize),
    )
    return _merge(stack, params, adapter_weights, rule)


@MERGE_METHODS.register(
    "della",
    source="Deep et al. 2024, arXiv 2406.11617",
    params=DellaParams,
    needs="adapters",
    leaves=_LEAVES,
    cost=f"{_PASSES}, and a sort of each row",
    default_weight="one",
    breaks=_RANDOM_BREAKS,
)
def della(stack: ModuleStack, params: DellaParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """DELLA: drop entries at random, the small of each row more often, rescale, elect signs and average.

    As published the average is over the entries that stayed and agree, each already rescaled; it is larger than the
    mean of the deltas, up to `1 / density` times, and meant to be scaled down.
    """
    rule = EntryRule(
        "ranked",
        densities(params, stack.n),
        epsilon=params.epsilon,
        rescale=params.rescale,
        seed=params.seed,
        election=Election(params.elect, params.convention, params.normalize),
    )
    return _merge(stack, params, adapter_weights, rule)


@MERGE_METHODS.register(
    "breadcrumbs",
    source="Davari and Belilovsky 2023, arXiv 2312.06795",
    params=BreadcrumbsParams,
    needs="adapters",
    leaves=_LEAVES,
    cost=_PASSES,
    breaks=("alone",),
)
def breadcrumbs(stack: ModuleStack, params: BreadcrumbsParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Model Breadcrumbs: weighted sum of deltas without their largest and their smallest entries."""
    rule = EntryRule("band", densities(params, stack.n), gamma=params.gamma, seed=params.seed)
    return _merge(stack, params, adapter_weights, rule)


def _trimmed(stack: ModuleStack, params: MagnitudePruneParams) -> EntryRule:
    if params.trim == "adapter" and params.bounds is None:
        raise ConfigError(
            "a trim over whole adapters needs all of their modules",
            expected="`bounds`, one per adapter",
            do="merge by `merge_adapters`, which finds them, or call `prepare_trim` first",
        )
    return EntryRule("largest", densities(params, stack.n), seed=params.seed, bounds=params.bounds)


def _merge(stack: ModuleStack, params, adapter_weights: Tensor, rule: EntryRule) -> MergedStack:
    return merge_entries(stack, adapter_weights, rule, enter_space(stack, params.space), rank=params.rank)
