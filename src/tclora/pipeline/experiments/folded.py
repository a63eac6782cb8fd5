"""An adapter added into the weights of a base for a while: what it costs in every pass is then paid once.

In: a base and an adapter. Out: the base with `lora_b @ lora_a` in its weights; afterwards its own weights again, bit
for bit. Scores differ from those of the attached adapter by rounding alone. Where a weight is not float32, is shared
between modules or is not that of a plain linear map, the adapter is attached instead: fewer digits would change it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tclora.adapters import Adapter
from tclora.models import Base, attached
from tclora.models.hooks import module_pairs

__all__ = ["folded"]


@contextmanager
def folded(base: Base, adapter: Adapter) -> Iterator[Base]:
    """The base with the adapter in its weights inside the block.

    Raises:
        AdapterMismatchError: as `attached`.
    """
    pairs = module_pairs(base, adapter)
    users = Counter(id(weight) for module in base.model.modules() for weight in module.parameters(recurse=False))
    if not all(
        type(module) is torch.nn.Linear and module.weight.dtype == torch.float32 and users[id(module.weight)] == 1
        for module, _ in pairs
    ):
        with attached(base, adapter):
            yield base
        return
    held = [module.weight.detach().clone() for module, _ in pairs]
    try:
        with torch.no_grad():
            for module, factors in pairs:
                device = module.weight.device
                module.weight.addmm_(factors.lora_b.to(device, torch.float32), factors.lora_a.to(device, torch.float32))
        yield base
    finally:
        with torch.no_grad():
            for (module, _), weight in zip(pairs, held, strict=True):
                module.weight.copy_(weight)
