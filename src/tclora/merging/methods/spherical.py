"""Spherical methods: deltas as directions and sizes, and points between directions on the sphere.

In: a stack and non-negative weights, of which only the proportions matter. Out: `sum_i c_i delta_i`, exact as one wider
LoRA, for every such point is a combination of the deltas. `c` comes from sizes and angles per module, that is from the
`n x n` inner products of the deltas, O(d P^2). Each method takes a module's delta as one vector; mergekit's row-wise
variants are not combinations of the deltas and are not offered.

A zero delta (a module that the adapter lacks, too) has no direction. `multislerp` and `karcher` take the direction of
the others, at the weighted mean of all sizes; `slerp` and `nuslerp` go straight from one to the other.

Refused: negative weights, weights that are all zero, more than two adapters in `slerp` and `nuslerp`, directions that
cancel, and for `karcher` a direction opposite to the mean.

Source: mergekit's `slerp`, `nuslerp`, `multislerp` and `karcher`, applied to deltas and not to whole weights.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from tclora.algebra import CompressedStack, ModuleStack, compress_stack
from tclora.algebra.directions import adapter_sizes, unit_coordinates
from tclora.errors import ConfigError, NumericalError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.linear import concatenate, exact
from tclora.shapes import Float

__all__ = ["KarcherParams", "SphericalParams", "karcher", "multislerp", "nuslerp", "slerp"]

# mergekit's bounds: `slerp` goes straight above this cosine, `nuslerp` below this sine, and a mean of unit directions
# shorter than this has no direction of its own.
_NEARLY_PARALLEL = 0.9995
_NO_SINE = 1e-8
_NO_DIRECTION = 1e-8


@dataclass(frozen=True)
class SphericalParams:
    """The position between the adapters comes from the weights; there are no other parameters.

    mergekit's `t` points at the second of two adapters. Adapters are put in an order of their own before a merge, so
    `t` is the share of an adapter's weight here.
    """

    def holding(self, rank: int) -> "SphericalParams":
        """One adapter is its own mean."""
        return self


@dataclass(frozen=True)
class KarcherParams:
    """`max_iter`, `tol`: steps at most, and the step length, in radians, at which to stop (mergekit: 10 and 1e-5)."""

    max_iter: int = 100
    tol: float = 1e-10

    def __post_init__(self):
        if self.max_iter < 1 or not self.tol >= 0:
            raise ConfigError(
                "the settings of karcher are out of range",
                found=f"max_iter {self.max_iter}, tol {self.tol}",
                expected="max_iter >= 1, tol >= 0",
            )

    def holding(self, rank: int) -> "KarcherParams":
        """One adapter is its own mean."""
        return self


@dataclass(frozen=True)
class _Points:
    """The adapters as sizes and directions.

    `weights` sum to 1; `live` marks adapters that have a direction and a weight, and `shares` are the weights of those,
    again at sum 1.
    """

    names: tuple[str, ...]
    compressed: CompressedStack
    sizes: Tensor
    weights: Tensor
    shares: Tensor
    live: Tensor

    def per_unit(self, coefficients: Tensor) -> Tensor:
        """Coefficients of unit directions as coefficients of deltas; 0 where there is no direction."""
        return torch.where(self.live, coefficients / torch.where(self.live, self.sizes, 1), 0)

    def length(self, coefficients: Tensor) -> Tensor:
        """Norm of a combination of the unit directions, from the matrix itself and not from expanded products."""
        return torch.linalg.matrix_norm(self.compressed.weighted_sum(self.per_unit(coefficients)))

    def mean_size(self) -> Tensor:
        """The weighted mean of the sizes, zero deltas included."""
        return (self.weights * self.sizes).sum(dim=1, keepdim=True)


@MERGE_METHODS.register(
    "slerp",
    source="Shoemake 1985; mergekit `slerp`",
    params=SphericalParams,
    needs="two adapters",
    leaves="rank P, exact",
    cost="O(d P^2)",
    most_adapters=2,
)
def slerp(stack: ModuleStack, params: SphericalParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Spherical interpolation between two adapters; straight where they are nearly parallel.

    `sin((1 - t) a) / sin(a)` of the first and `sin(t a) / sin(a)` of the second, `a` the angle between them and `t` the
    second one's share of the weights. Where `|cos a|` exceeds 0.9995 it is `1 - t` and `t`.

    Raises:
        ConfigError: there are more than two adapters, or a weight is negative, or all are zero.
    """
    return _between_two(stack, adapter_weights, "slerp")


@MERGE_METHODS.register(
    "nuslerp",
    source="mergekit `nuslerp`",
    params=SphericalParams,
    needs="two adapters",
    leaves="rank P, exact",
    cost="O(d P^2)",
    most_adapters=2,
)
def nuslerp(stack: ModuleStack, params: SphericalParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Spherical interpolation between two adapters, spherical as far as the angle can be told.

    `slerp` with the straight line only where the sine of the angle is below 1e-8.

    Raises:
        ConfigError: there are more than two adapters, or a weight is negative, or all are zero.
    """
    return _between_two(stack, adapter_weights, "nuslerp")


@MERGE_METHODS.register(
    "multislerp",
    source="mergekit `multislerp`",
    params=SphericalParams,
    needs="adapters",
    leaves="rank P, exact",
    cost="O(d P^2)",
)
def multislerp(stack: ModuleStack, params: SphericalParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Direction of the weighted mean of unit directions, at the weighted mean of the sizes.

    mergekit adds a step in the tangent space of that mean. The step is the weighted sum of the parts of the directions
    that are orthogonal to their own weighted mean, which is zero: the formula is this one.

    Raises:
        ConfigError: a weight is negative, or all are zero.
        NumericalError: the directions of three or more adapters cancel. Two opposite ones are added straight.
    """
    points = _points(stack, adapter_weights, "multislerp")
    length = points.length(points.shares)[:, None]
    defined = _check_mean(points, length, straight=stack.n == 2)
    along = points.per_unit(points.shares) * points.mean_size() / torch.where(defined, length, 1)
    figures = tuple({"mean_direction_length": x} for x in length[:, 0].tolist())
    return exact(concatenate(stack, torch.where(defined, along, points.weights)), figures)


@MERGE_METHODS.register(
    "karcher",
    source="Karcher 1977; mergekit `karcher`",
    params=KarcherParams,
    needs="adapters",
    leaves="rank P, exact",
    cost="O(d P^2)",
)
def karcher(stack: ModuleStack, params: KarcherParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Mean of the directions by angles on the sphere (Karcher mean), at the weighted mean of the sizes.

    Steps from the direction of the plain mean: each direction is drawn to the tangent space at the current point by
    its angle, and the point moves along their weighted sum.

    Raises:
        ConfigError: a weight is negative, or all are zero.
        NumericalError: the directions cancel, or one points away from the mean; the mean is then not defined.
    """
    points = _points(stack, adapter_weights, "karcher")
    length = points.length(points.shares)[:, None]
    defined = _check_mean(points, length, straight=False)
    start = points.shares / torch.where(defined, length, 1)
    coefficients, n_iter, converged = _karcher_steps(points, start, params)
    delta = concatenate(stack, points.per_unit(coefficients) * points.mean_size())
    facts = zip(n_iter.tolist(), converged.tolist(), length[:, 0].tolist(), strict=True)
    return exact(delta, tuple({"n_iter": a, "converged": b, "mean_direction_length": c} for a, b, c in facts))


def _points(stack: ModuleStack, adapter_weights: Tensor, method: str) -> _Points:
    if bool((adapter_weights < 0).any()) or bool((adapter_weights.sum(dim=1) <= 0).any()):
        raise ConfigError(
            f"'{method}' needs weights that are not negative and not all zero",
            found=f"weights from {float(adapter_weights.min())} to {float(adapter_weights.max())}",
            expected="weights >= 0, one of them positive",
            do="give other weights, or take a method of sums: mean or task_arithmetic",
        )
    compressed = compress_stack(stack)
    sizes = adapter_sizes(compressed)
    weights = adapter_weights.to(sizes) / adapter_weights.to(sizes).sum(dim=1, keepdim=True)
    # An adapter of weight 0 is left out, whatever its direction.
    live = (sizes > 0) & (weights > 0)
    whole = (weights * live).sum(dim=1, keepdim=True)
    shares = weights * live / torch.where(whole > 0, whole, 1)
    return _Points(stack.names, compressed, sizes, weights, shares, live)


def _between_two(stack: ModuleStack, adapter_weights: Tensor, method: str) -> MergedStack:
    if stack.n > 2:
        raise ConfigError(
            f"'{method}' goes from one adapter to another",
            found=f"{stack.n} adapters",
            expected="two adapters",
            do="take multislerp or karcher, which hold any number",
        )
    points = _points(stack, adapter_weights, method)
    if stack.n == 1:
        return exact(concatenate(stack, points.weights))
    toward = points.weights[:, 1]
    angle = _angle(points)
    parallel = angle.cos().abs() > _NEARLY_PARALLEL if method == "slerp" else angle.sin().abs() < _NO_SINE
    straight = parallel | ~points.live.all(dim=1)
    sine = torch.where(straight, 1, angle.sin())
    first = torch.where(straight, 1 - toward, ((1 - toward) * angle).sin() / sine)
    second = torch.where(straight, toward, (toward * angle).sin() / sine)
    figures = tuple({"angle_degrees": x} for x in (angle * 180 / pi).tolist())
    return exact(concatenate(stack, torch.stack([first, second], dim=1)), figures)


def _angle(points: _Points) -> Tensor:
    """The angle between two directions; from half sums and differences, for a cosine near 1 holds half the digits."""
    apart, together = (points.length(torch.tensor([[1.0, sign]]).to(points.sizes)) for sign in (-1.0, 1.0))
    return 2 * torch.atan2(apart, together)


def _check_mean(points: _Points, length: Tensor, *, straight: bool) -> Tensor:
    """Where the mean of the directions has a direction; modules in which all deltas are zero need none."""
    defined = length >= _NO_DIRECTION
    bad = (~defined & points.live.any(dim=1, keepdim=True))[:, 0]
    if bool(bad.any()) and not straight:
        raise NumericalError(
            "the directions of the adapters cancel, so they have no mean direction",
            where=points.names[int(bad.nonzero()[0])],
            found=f"a mean of length {float(length[bad][0]):.1e}",
            expected=f"at least {_NO_DIRECTION:.0e}",
            do="give other weights, leave one of two opposite adapters out, or take mean, which is always defined",
        )
    return defined


def _karcher_steps(points: _Points, start: Tensor, params: KarcherParams) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate on coefficients of the unit directions, `(m, n)`; a module that has settled stays."""
    place = unit_coordinates(points.compressed)
    coefficients = start
    n_iter = torch.zeros(start.shape[0], dtype=torch.int64, device=start.device)
    settled = ~points.live.any(dim=1)
    for _ in range(params.max_iter):
        if settled.all():
            break
        mean = coefficients[:, None] @ place
        step = _tangent(points, (place @ mean.mT)[:, :, 0], coefficients)
        reach = torch.linalg.vector_norm(step[:, None] @ place, dim=(1, 2))[:, None]
        moved = coefficients * reach.cos() + step * torch.where(
            reach > 0, reach.sin() / torch.where(reach > 0, reach, 1), 1
        )
        moved = moved / torch.linalg.vector_norm(moved[:, None] @ place, dim=(1, 2)).clamp(min=_NO_DIRECTION)[:, None]
        coefficients = torch.where(settled[:, None], coefficients, moved)
        n_iter = n_iter + (~settled).long()
        settled = settled | (reach[:, 0] <= params.tol)
    return coefficients, n_iter, settled


def _tangent(points: _Points, cosines: Tensor, coefficients: Tensor) -> Tensor:
    """Coefficients of the weighted sum of the directions, each drawn to the tangent space by its angle."""
    opposite = points.live & (cosines < _NO_DIRECTION - 1)
    if opposite.any():
        raise NumericalError(
            "an adapter points away from the mean of the others, so there is no shortest way to it",
            where=points.names[int(opposite.any(dim=1).nonzero()[0])],
            found="an angle of 180 degrees to the mean",
            do="give other weights, leave that adapter out, or take multislerp or mean",
        )
    angle = cosines.clamp(-1, 1).acos()
    near = angle < _NO_SINE
    drawn = points.shares * torch.where(near, 1, angle / torch.where(near, 1, angle.sin()))
    return drawn - (drawn * cosines).sum(dim=1, keepdim=True) * coefficients
