"""KnOTS and Core Space: any entry-wise rule in a small space that holds every delta exactly.

In: a stack and weights. Out: an adapter of rank at most P that equals the merged matrix (`rank` cuts it further, and
the relative error says what that loses). The rules are those of the entry-wise methods, with the same parameters; what
differs is the basis in which entries are taken, and with it the result. Rules that turn with the basis, such as `tsv`
and the isotropic ones, give the same in Core Space as on the deltas and are not listed here.
"""

from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.merging.entries import Election, EntryRule, Keep, enter_space, merge_entries
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.sparse_params import CoreSpaceParams, Inner, KnotsParams, densities
from tclora.shapes import Float

__all__ = ["core_space", "knots"]

_KEEPS: dict[Inner, Keep] = {
    "mean": "all",
    "magnitude_prune": "largest",
    "ties": "largest",
    "dare": "random",
    "dare_ties": "random",
    "della": "ranked",
    "breadcrumbs": "band",
}
_ELECTS = frozenset({"ties", "dare_ties", "della"})


@MERGE_METHODS.register(
    "knots",
    source="Stoica et al. 2024, arXiv 2410.19735",
    params=KnotsParams,
    needs="adapters",
    leaves="rank P, exact; or rank R",
    cost="O(d P^2 + n P d)",
)
def knots(stack: ModuleStack, params: KnotsParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """KnOTS: align the adapters by one SVD of all deltas side by side, then merge the aligned parts by an inner rule.

    `[delta_1 ... delta_n] = U S [V_1 ... V_n]`; the rule merges the blocks `S V_i`, and `U` carries the result back.
    """
    space = enter_space(stack, "knots")
    return merge_entries(stack, adapter_weights, _rule(stack, params), space, rank=params.rank)


@MERGE_METHODS.register(
    "core_space",
    source="Panariello et al. 2025, arXiv 2509.17786",
    params=CoreSpaceParams,
    needs="adapters",
    leaves="rank P, exact; or rank R",
    cost="O(d P^2 + n P^2)",
)
def core_space(stack: ModuleStack, params: CoreSpaceParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Core Space: merge the adapters by an inner rule as small matrices in common bases of their two sides.

    With `factors="stored"` the bases are the authors', and the result depends on how each adapter is factored.
    """
    space = enter_space(stack, "core", factors=params.factors)
    return merge_entries(stack, adapter_weights, _rule(stack, params), space, rank=params.rank)


def _rule(stack: ModuleStack, params: KnotsParams) -> EntryRule:
    elects = params.inner in _ELECTS
    return EntryRule(
        _KEEPS[params.inner],
        densities(params, stack.n),
        gamma=params.gamma,
        epsilon=params.epsilon,
        rescale=params.rescale,
        seed=params.seed,
        election=Election(params.elect, params.convention, params.normalize) if elects else None,
    )
