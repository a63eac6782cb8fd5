"""An adapter on a base model for as long as a `with` block lasts.

In: a `Base` and an `Adapter` (scaling folded). Out: the same `Base`, whose named modules add
`x @ lora_a.T @ lora_b.T` to what they return. No weight is touched, so many adapters are scored on one load. Refused:
modules that the base lacks, that have another shape, or that are no linear map (Linear, Conv1D, Embedding).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tclora.adapters import Adapter, LoraFactors
from tclora.errors import AdapterMismatchError
from tclora.models.base import Base

__all__ = ["attached", "module_pairs"]


@contextmanager
def attached(base: Base, adapter: Adapter) -> Iterator[Base]:
    """Add the adapter's updates to the base's modules inside the block; blocks nest and then add up.

    Factors are put in the dtype and on the device of the module's weight.

    Raises:
        AdapterMismatchError: the adapter names a module that the base lacks, or one of another shape. Raised before
            anything is attached.
    """
    hooks = [(module, _hook(module, factors)) for module, factors in module_pairs(base, adapter)]
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield base


def module_pairs(base: Base, adapter: Adapter) -> list[tuple[Any, LoraFactors]]:
    """The base's module and the factors of each of the adapter's modules, in the adapter's order.

    Raises:
        AdapterMismatchError: as `attached`.
    """
    modules = dict(base.model.named_modules())
    pairs = []
    for name, factors in adapter.modules.items():
        if name not in modules:
            raise AdapterMismatchError(
                "the adapter names a module that the base model lacks",
                where=f"{name} of {base.name}",
                found=f"{len(adapter.modules)} adapted modules, this one absent",
                expected="module paths of the base model the adapter was trained on",
                do="use the adapter with its own base model",
            )
        _check_shape(base, name, modules[name], factors)
        pairs.append((modules[name], factors))
    return pairs


def _check_shape(base: Base, name: str, module: Any, factors: LoraFactors) -> None:
    expected = _sizes(module)
    found = (factors.lora_b.shape[0], factors.lora_a.shape[1])
    if expected != found:
        raise AdapterMismatchError(
            "the adapter does not fit the base model",
            where=f"{name} of {base.name}",
            found=f"lora_b @ lora_a of shape {found}",
            expected=f"{expected}, a {type(module).__name__}"
            if expected
            else f"a linear map, not {type(module).__name__}",
            do="use the adapter with its own base model",
        )


def _sizes(module: Any) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear map, None for any other module; an embedding maps from the vocabulary."""
    weight = getattr(module, "weight", None)
    if isinstance(module, torch.nn.Linear):
        return (module.out_features, module.in_features)
    if isinstance(module, torch.nn.Embedding) or type(module).__name__ == "Conv1D":
        return None if weight is None else (weight.shape[1], weight.shape[0])
    return None


def _hook(module: Any, factors: LoraFactors) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    weight = module.weight
    # Packed 4-bit weights are bytes; what they are multiplied in is the layer's own business.
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    down = factors.lora_a.to(weight.device, dtype).t().contiguous()
    up = factors.lora_b.to(weight.device, dtype).t().contiguous()
    if isinstance(module, torch.nn.Embedding):
        return lambda _, inputs, output: output + (down[inputs[0]] @ up).to(output.dtype)
    return lambda _, inputs, output: output + ((inputs[0].to(down.dtype) @ down) @ up).to(output.dtype)
