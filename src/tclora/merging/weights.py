"""One weight per adapter: uniform, given, or in proportion to a count."""

import math
from collections.abc import Sequence

from tclora.errors import ConfigError

__all__ = ["resolve_weights"]


def resolve_weights(n: int, adapter_weights: Sequence[float] | None) -> tuple[float, ...]:
    """The weights of `n` adapters: `1 / n` each, or those given, as given (they need not sum to 1).

    Raises:
        ConfigError: their number is not `n`, or one is not finite.
    """
    if adapter_weights is None:
        return (1.0 / n,) * n
    if len(adapter_weights) != n:
        raise ConfigError(
            "the weights do not match the adapters",
            found=f"{len(adapter_weights)} weights for {n} adapters",
            expected="one weight per adapter, in their order",
            do="give --weights as many numbers as there are adapters",
        )
    for index, weight in enumerate(adapter_weights):
        if not math.isfinite(weight):
            raise ConfigError("a weight is not a finite number", where=f"weight {index + 1}", found=weight)
    return tuple(float(weight) for weight in adapter_weights)
