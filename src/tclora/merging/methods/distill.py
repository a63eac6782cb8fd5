"""The routed library, distilled into one adapter of low rank from unlabelled prompts.

In: a stack, and the factors that `tclora.merging.learning.distill` found for its modules. Out: those factors. No base
model and no prompts are touched here. The weights play no part: every adapter's own prompts say where it counts.
Refused: no factors, or factors of other modules or sizes.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.adapters import LoraFactors
from tclora.algebra import LowRankDelta, ModuleStack
from tclora.errors import ConfigError
from tclora.merging.learning.distill import DistillParams, learn_distilled
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.linear import exact
from tclora.shapes import Float

__all__ = ["distill"]


@MERGE_METHODS.register(
    "distill",
    source="start: arXiv 2508.03999; loss: Hinton et al. 2015, arXiv 1503.02531",
    params=DistillParams,
    needs="base, unlabelled prompts of each adapter",
    leaves="rank cp_rank",
    cost="O(d R), after generating answers and `steps` forward and backward passes",
    learns=learn_distilled,
    labelled=False,
    statistics=True,
)
def distill(stack: ModuleStack, params: DistillParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """A merge of low rank refit so that it predicts, behind each adapter's prompts, what that adapter predicts.

    With `refit=terms` the directions stay those of its start. With `refit=factors`, the default, every entry moves:
    that is training without labels which begins at a merge.

    Raises:
        ConfigError: nothing was learned, or it is not of these modules; adapter weights are given.
    """
    if not torch.allclose(adapter_weights.double(), torch.tensor(1 / stack.n, dtype=torch.float64)):
        raise ConfigError(
            "distill takes no adapter weights: each adapter's own prompts say where it counts",
            found=", ".join(f"{weight:g}" for weight in adapter_weights[0].tolist()),
            expected="none, or 1 / n each",
            do="leave the weights out",
        )
    found = [_factors(stack, params, name) for name in stack.names]
    rank, device = max(len(one.lora_a) for one in found), stack.out_stack.device
    lora_b = torch.stack([pad(one.lora_b, (0, rank - one.lora_b.shape[1])) for one in found])
    lora_a = torch.stack([pad(one.lora_a, (0, 0, 0, rank - len(one.lora_a))) for one in found])
    return exact(LowRankDelta(stack.names, lora_b.to(device, torch.float64), lora_a.to(device, torch.float64)))


def _factors(stack: ModuleStack, params: DistillParams, name: str) -> LoraFactors:
    found = (params.factors or {}).get(name)
    if found is None:
        raise ConfigError(
            "distill needs what was learned from prompts",
            where=name,
            found="nothing learned" if params.factors is None else f"factors of {len(params.factors)} other modules",
            expected="factors of every module, learned with these adapters",
            do="give --base and --examples NAME=FILE for each adapter, or --learned FILE",
        )
    sizes, expected = (len(found.lora_b), found.lora_a.shape[1]), (stack.out_stack.shape[1], stack.in_stack.shape[1])
    if sizes != expected:
        raise ConfigError(
            "the learned factors of a module are of another size",
            where=name,
            found=f"a delta of {sizes}",
            expected=f"{expected}, as the adapters have it",
            do="learn again, with --base and --examples",
        )
    return found
