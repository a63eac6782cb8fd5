"""Weighted sums whose weights were learned from examples: LoRAHub, learned concatenation, AdaMerging.

In: a stack and the weights that `tclora.merging.learning` found, one per module and adapter. Out: the sum of the
weighted deltas, exact by concatenation, of rank P; or, for LoRAHub as published, the product of the weighted sums of
the factors. No base model and no examples are touched here. The weights are used as given, so without learned
ones these methods are what `mean` is.
"""

from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.merging.learning.adamerging import AdamergingParams, learn_adamerging
from tclora.merging.learning.learned_cat import LearnedCatParams, learn_cat
from tclora.merging.learning.lorahub import LorahubParams, learn_lorahub
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.factors import sum_factors
from tclora.merging.methods.linear import concatenate, exact
from tclora.shapes import Float

__all__ = ["adamerging", "learned_cat", "lorahub"]


@MERGE_METHODS.register(
    "lorahub",
    source="Huang et al. 2023, arXiv 2307.13269",
    params=LorahubParams,
    needs="base, a few labelled examples",
    leaves="rank P, exact; rank r with combine=factors",
    cost="O(d P), after max_evaluations passes over the examples",
    learns=learn_lorahub,
    labelled=True,
)
def lorahub(stack: ModuleStack, params: LorahubParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Weighted sum by one weight per adapter, searched without gradients on a few labelled examples.

    `combine=factors` is the published form, `(sum_i w_i lora_b_i) @ (sum_i w_i lora_a_i)`: cross terms of adapters,
    and dependent on how each adapter is factored. The default sums deltas.

    Raises:
        AdapterMismatchError: factors of unequal rank are to be added.
    """
    if params.combine == "deltas":
        return exact(concatenate(stack, adapter_weights))
    return exact(sum_factors(stack, adapter_weights, adapter_weights))


@MERGE_METHODS.register(
    "learned_cat",
    source="Prabhakar et al. 2024, arXiv 2410.13025 (LoRA Soups)",
    params=LearnedCatParams,
    needs="base, labelled examples",
    leaves="rank P, exact",
    cost="O(d P), after `steps` forward and backward passes",
    learns=learn_cat,
    labelled=True,
)
def learned_cat(stack: ModuleStack, params: LearnedCatParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Concatenation with one trained weight per module and adapter, a softmax over the adapters."""
    return exact(concatenate(stack, adapter_weights))


@MERGE_METHODS.register(
    "adamerging",
    source="Yang et al. 2023, arXiv 2310.02575",
    params=AdamergingParams,
    needs="base, unlabelled prompts",
    leaves="rank P, exact",
    cost="O(d P), after `steps` forward and backward passes",
    learns=learn_adamerging,
    labelled=False,
)
def adamerging(stack: ModuleStack, params: AdamergingParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Weighted sum by coefficients that lower the entropy of next-token predictions on unlabelled prompts."""
    return exact(concatenate(stack, adapter_weights))
