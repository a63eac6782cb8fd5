"""The front door of learning: a method, adapters and a problem in, what was learned out.

Adapters are put in the order of their digests first, so that the order in which a user names them changes no bit.
Refused: a method that learns nothing, parameters of another method, two equal adapters, no adapters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from tclora.adapters import Adapter, check_mergeable
from tclora.errors import ConfigError
from tclora.merging.learning.learned import Learned
from tclora.merging.learning.problem import LearningProblem, adapter_digests
from tclora.merging.method import MERGE_METHODS, Params, parse_params

__all__ = ["learn_weights", "learns"]


def learns(method: str) -> bool:
    """Whether the method takes what it merges by from examples."""
    return "learns" in MERGE_METHODS.entry(method).facts


def learn_weights(
    method: str,
    adapters: Sequence[Adapter],
    problem: LearningProblem,
    *,
    params: Params | Mapping[str, object] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Learned:
    """Learn what `method` merges the adapters by.

    Args:
        params: the method's parameters, or plain values for them; None takes its defaults.
        on_progress: called with steps done and steps in all.

    Raises:
        ConfigError: the method learns nothing, a parameter is wrong, or there is nothing to learn from.
        DataError: the method needs responses and an example has none.
        AdapterMismatchError: adapters that do not fit the base or one another, or that are equal.
        NumericalError: losses or gradients gave out.
    """
    facts = MERGE_METHODS.entry(method).facts
    if "learns" not in facts:
        known = ", ".join(name for name in MERGE_METHODS if learns(name))
        raise ConfigError(f"the method '{method}' learns nothing from examples", expected=f"one of {known}")
    if not adapters:
        raise ConfigError("there is nothing to learn weights for", expected="at least one adapter")
    check_mergeable(adapters)
    settings = params if params is not None and not isinstance(params, Mapping) else parse_params(method, params or {})
    if not isinstance(settings, cast(type, facts["params"])):
        raise ConfigError(f"these are not parameters of '{method}'", found=type(settings).__name__)
    digests = adapter_digests(adapters)
    ordered = [adapters[i] for i in sorted(range(len(adapters)), key=digests.__getitem__)]
    return cast(Any, facts["learns"])(ordered, settings, problem, on_progress)
