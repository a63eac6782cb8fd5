"""Several adapters on a base model at once, each times a weight that may change and may want a gradient.

In: a `Base`, adapters, and a function from a module's path to one weight per adapter. Out: the same `Base`, whose named
modules add `sum_i w_i * (x @ lora_a_i.T @ lora_b_i.T)` to what they return. The function is asked in every forward
pass, so the weights may be those of a search or of an optimizer: a gradient reaches them and nothing else. Memory: the
adapters and one hidden vector of the summed rank per token. Refused: as for one adapter; unequal ranks where
factors are to be added.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from tclora.adapters import Adapter, LoraFactors
from tclora.errors import AdapterMismatchError
from tclora.models.base import Base
from tclora.models.hooks import module_pairs

__all__ = ["WeightsOf", "attached_together"]

WeightsOf = Callable[[str], Tensor]
"""Module path to one weight per adapter, shape (n,)."""

_Share = tuple[int, LoraFactors]


@contextmanager
def attached_together(
    base: Base,
    adapters: Sequence[Adapter],
    weights_of: WeightsOf,
    *,
    combine: Literal["deltas", "factors"] = "deltas",
) -> Iterator[Base]:
    """Add the weighted adapters to the base's modules inside the block.

    `deltas` adds `sum_i w_i lora_b_i @ lora_a_i`; `factors` adds `(sum_i w_i lora_b_i) @ (sum_i w_i lora_a_i)`, cross
    terms and all. An adapter that lacks a module adds nothing there. Factors are held in float32 (float64 for a
    float64 base), whatever the dtype of the base, so that gradients of the weights keep their digits.

    Raises:
        AdapterMismatchError: an adapter does not fit the base, or factors of unequal rank are to be added. Raised
            before anything is attached.
    """
    modules: dict[str, Any] = {}
    shares: dict[str, list[_Share]] = {}
    for index, adapter in enumerate(adapters):
        for name, (module, factors) in zip(adapter.modules, module_pairs(base, adapter), strict=True):
            modules[name] = module
            shares.setdefault(name, []).append((index, factors))
    make = _adding_deltas if combine == "deltas" else _adding_factors
    hooks = [(modules[name], make(name, modules[name], shares[name], weights_of)) for name in modules]
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield base


def _adding_deltas(name: str, module: Any, shares: Sequence[_Share], weights_of: WeightsOf) -> Callable[..., Tensor]:
    down, up, owner = _side_by_side(module, shares)

    def add(_, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        columns = weights_of(name).to(down)[owner]
        return output + ((_reduced(module, inputs[0], down) * columns) @ up).to(output.dtype)

    return add


def _adding_factors(name: str, module: Any, shares: Sequence[_Share], weights_of: WeightsOf) -> Callable[..., Tensor]:
    ranks = [factors.lora_a.shape[0] for _, factors in shares]
    if len(set(ranks)) > 1:
        raise AdapterMismatchError(
            "factors of unequal rank cannot be added",
            where=name,
            found="ranks " + ", ".join(map(str, ranks)),
            expected="one rank for all adapters",
            do="combine the deltas instead",
        )
    down, up, owner = _side_by_side(module, shares)

    def add(_, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        columns = weights_of(name).to(down)[owner]
        # Column c of every adapter stands at c, r + c, 2 r + c ...
        down_sum = (down * columns).unflatten(1, (-1, ranks[0])).sum(dim=1)
        up_sum = (up * columns[:, None]).unflatten(0, (-1, ranks[0])).sum(dim=0)
        return output + (_reduced(module, inputs[0], down_sum) @ up_sum).to(output.dtype)

    return add


def _side_by_side(module: Any, shares: Sequence[_Share]) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of all adapters, (d_in, P) and (P, d_out), and which adapter owns each of the P columns."""
    weight = module.weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    down = torch.cat([factors.lora_a for _, factors in shares]).to(weight.device, dtype).t().contiguous()
    up = torch.cat([factors.lora_b for _, factors in shares], dim=1).to(weight.device, dtype).t().contiguous()
    owner = [index for index, factors in shares for _ in range(factors.lora_a.shape[0])]
    return down, up, torch.tensor(owner, device=weight.device)


def _reduced(module: Any, x: Tensor, down: Tensor) -> Tensor:
    return down[x] if isinstance(module, torch.nn.Embedding) else x.to(down.dtype) @ down
