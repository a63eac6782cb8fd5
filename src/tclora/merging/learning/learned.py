"""What was learned, as a value: weights per module and adapter, statistics of inputs, or the merge's own factors.

It is kept by the digests of the adapters' weights, so neither their names nor their order matters, and it can be used
again without base model and examples. Refused: other adapters than those it was learned with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tclora.adapters import Adapter, LoraFactors
from tclora.errors import AdapterMismatchError
from tclora.merging.learning.problem import LearningProblem, adapter_digests
from tclora.merging.learning.statistics import AdapterStatistics
from tclora.merging.method import Params

__all__ = ["Learned", "learned_from"]


@dataclass(frozen=True)
class Learned:
    """Weights, statistics or factors learned from examples.

    Adapters are in the order of their digests. `weights` give each module one weight per adapter; `statistics` are one
    per adapter; `factors` are the merged update of each module; two of the three are empty. Losses are nats per token,
    of the loss that the method lowers; None where nothing was minimized.
    """

    method: str
    params: dict[str, object]
    base: str
    seed: int
    n_examples: int
    adapters: tuple[str, ...]
    digests: tuple[str, ...]
    loss_before: float | None = None
    loss_after: float | None = None
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    statistics: tuple[AdapterStatistics, ...] = ()
    factors: Mapping[str, LoraFactors] = field(default_factory=dict)

    def settle(
        self, params: Params, adapters: Sequence[Adapter]
    ) -> tuple[Params, Mapping[str, tuple[float, ...]] | None]:
        """What to merge with: the parameters with what was learned in them, and learned weights or None.

        Raises:
            AdapterMismatchError: these are not the adapters that it was learned with.
        """
        if self.factors:
            self._places(adapters)
            return replace(cast(Any, params), factors=self.factors), None
        if self.statistics:
            return replace(cast(Any, params), statistics=self.statistics_for(adapters)), None
        return params, self.weights_for(adapters)

    def weights_for(self, adapters: Sequence[Adapter]) -> dict[str, tuple[float, ...]]:
        """The weights of each module, in the order of `adapters`.

        Raises:
            AdapterMismatchError: these are not the adapters that the weights were learned with.
        """
        places = self._places(adapters)
        return {name: tuple(weights[k] for k in places) for name, weights in self.weights.items()}

    def statistics_for(self, adapters: Sequence[Adapter]) -> tuple[AdapterStatistics, ...]:
        """The statistics of each adapter, in the order of `adapters`.

        Raises:
            AdapterMismatchError: these are not the adapters that the statistics were taken with.
        """
        return tuple(self.statistics[k] for k in self._places(adapters))

    def _places(self, adapters: Sequence[Adapter]) -> list[int]:
        digests = adapter_digests(adapters)
        for adapter, digest in zip(adapters, digests, strict=True):
            if digest not in self.digests:
                raise AdapterMismatchError(
                    "what was learned is of other adapters",
                    where=f"adapter {adapter.name}",
                    found=f"weights with sha256 {digest[:16]}…",
                    expected="the weights of " + _named(self.adapters, self.digests),
                    do="learn again for these adapters, with --base and --examples",
                )
        left = [name for name, digest in zip(self.adapters, self.digests, strict=True) if digest not in digests]
        if left:
            raise AdapterMismatchError(
                "what was learned is of more adapters than these",
                found=", ".join(adapter.name for adapter in adapters),
                expected="also " + ", ".join(left),
                do="name all of them, or learn again for these, with --base and --examples",
            )
        return [self.digests.index(digest) for digest in digests]


def learned_from(
    method: str, params: dict[str, object], problem: LearningProblem, adapters: Sequence[Adapter], **found: Any
) -> Learned:
    """What a learner found (`weights`, `statistics`, losses), with the record of what it learned from."""
    return Learned(
        method=method,
        params=params,
        base=problem.base.name,
        seed=problem.seed,
        n_examples=problem.n_examples,
        adapters=tuple(adapter.name for adapter in adapters),
        digests=adapter_digests(adapters),
        **found,
    )


def _named(names: Sequence[str], digests: Sequence[str]) -> str:
    return ", ".join(f"{name} ({digest[:16]}…)" for name, digest in zip(names, digests, strict=True))
