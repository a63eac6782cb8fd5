"""The parameters of the entry-wise methods: fields that all share, and what each adds.

`density` is the share of entries that stay, one for all adapters or one per adapter in their order. `rank` is that of
the result; None leaves the sum of the adapters' ranks, as `mean` does. Refused: shares outside (0, 1], ranks below 1,
probabilities outside (0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tclora.errors import ConfigError
from tclora.merging.entries.rule import Convention, Elect, Rescale
from tclora.merging.entries.spaces import Factors, SpaceName

__all__ = [
    "BreadcrumbsParams",
    "CoreSpaceParams",
    "DareParams",
    "DareTiesParams",
    "DellaParams",
    "EntryParams",
    "Inner",
    "KnotsParams",
    "MagnitudePruneParams",
    "TiesParams",
    "densities",
]

Inner = Literal["mean", "magnitude_prune", "ties", "dare", "dare_ties", "della", "breadcrumbs"]
Trim = Literal["module", "adapter"]


@dataclass(frozen=True)
class EntryParams:
    """`density`: share of entries that stay. `rank`: of the result. `seed`: of random masks and of the truncation."""

    density: float | tuple[float, ...] = 0.5
    rank: int | None = None
    seed: int = 0

    def __post_init__(self):
        for share in _shares(self.density):
            if not 0 < share <= 1:
                raise ConfigError("'density' is no share of the entries", found=share, expected="0 < density <= 1")
        if self.density == ():
            raise ConfigError("'density' holds no number", expected="one share, or one per adapter")
        if self.rank is not None and self.rank < 1:
            raise ConfigError("'rank' of the result is not positive", found=self.rank, expected=">= 1")
        if self.seed < 0:
            raise ConfigError("'seed' is negative", found=self.seed, expected=">= 0")

    def holding(self, rank: int) -> "EntryParams":
        """Nothing dropped, and room for one adapter of `rank`."""
        return replace(self, density=1.0, rank=None if self.rank is None else max(self.rank, rank))

    def in_order(self, order: Sequence[int]) -> "EntryParams":
        """The same for the adapters in another order: position `k` takes what `order[k]` had."""
        if not isinstance(self.density, tuple):
            return self
        densities(self, len(order))
        return replace(self, density=tuple(self.density[k] for k in order))


@dataclass(frozen=True)
class MagnitudePruneParams(EntryParams):
    """`space`: where entries are taken. `trim`: the density holds in each module, or over each adapter as a whole.

    `bounds`: the least magnitude that stays, one per adapter; found by the merge where `trim` is `adapter`.
    """

    density: float | tuple[float, ...] = 0.2
    space: SpaceName = "dense"
    trim: Trim = "module"
    bounds: tuple[float, ...] | None = None

    def holding(self, rank: int) -> "EntryParams":
        """Nothing dropped, and room for one adapter of `rank`."""
        return replace(super().holding(rank), trim="module", bounds=None)


@dataclass(frozen=True)
class TiesParams(MagnitudePruneParams):
    """`elect`, `convention`, `normalize`: how signs are elected and what the weights do; see `Election`."""

    elect: Elect = "sum"
    convention: Convention = "mergekit"
    normalize: bool = True


@dataclass(frozen=True)
class DareParams(EntryParams):
    """`rescale`: divide what stays by the density, or bring each delta back to its L1 norm (mergekit), or neither."""

    space: SpaceName = "dense"
    rescale: Rescale = "inverse"


@dataclass(frozen=True)
class DareTiesParams(DareParams):
    """As `dare`, then as `ties`; not normalized by default, for the rescaling is made for sums."""

    elect: Elect = "sum"
    convention: Convention = "mergekit"
    normalize: bool = False


@dataclass(frozen=True)
class DellaParams(DareTiesParams):
    """`epsilon`: the chance to stay runs from `density - epsilon` to `density + epsilon` over a row's magnitudes."""

    epsilon: float = 0.15
    normalize: bool = True

    def __post_init__(self):
        super().__post_init__()
        _check_epsilon(self.density, self.epsilon)


@dataclass(frozen=True)
class BreadcrumbsParams(EntryParams):
    """`gamma`: the share of largest entries that go; the smallest go until `density` is left."""

    density: float | tuple[float, ...] = 0.9
    space: SpaceName = "dense"
    gamma: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        _check_gamma(self.gamma)


@dataclass(frozen=True)
class KnotsParams(EntryParams):
    """`inner`: the rule applied in the space; the other fields are those of the inner rule and ignored by the rest."""

    density: float | tuple[float, ...] = 1.0
    inner: Inner = "ties"
    elect: Elect = "sum"
    convention: Convention = "mergekit"
    normalize: bool = True
    rescale: Rescale = "inverse"
    epsilon: float = 0.15
    gamma: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        _check_gamma(self.gamma)
        if self.inner == "della":
            _check_epsilon(self.density, self.epsilon)


@dataclass(frozen=True)
class CoreSpaceParams(KnotsParams):
    """`factors`: bases from balanced factors, which depend on the deltas alone, or from those stored (the authors')."""

    factors: Factors = "balanced"


def densities(params: EntryParams, n: int) -> tuple[float, ...]:
    """One density per adapter.

    Raises:
        ConfigError: they were given per adapter, and there are not `n`.
    """
    if not isinstance(params.density, tuple):
        return (params.density,) * n
    if len(params.density) != n:
        raise ConfigError(
            "'density' is given per adapter, and not once for each",
            found=f"{len(params.density)} densities for {n} adapters",
            expected="one density for all adapters, or one per adapter in their order",
        )
    return params.density


def _shares(density: float | tuple[float, ...]) -> tuple[float, ...]:
    return density if isinstance(density, tuple) else (density,)


def _check_epsilon(density: float | tuple[float, ...], epsilon: float) -> None:
    for share in _shares(density):
        if share < 1 and not (epsilon >= 0 and share - epsilon > 0 and share + epsilon <= 1):
            raise ConfigError(
                "'epsilon' takes the chance to stay out of its range",
                found=f"density {share}, epsilon {epsilon}",
                expected="0 < density - epsilon and density + epsilon <= 1",
            )


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < 1:
        raise ConfigError("'gamma' is no share of the entries", found=gamma, expected="0 <= gamma < 1")
