"""Adapters made from known parts, so that what a merge should keep is known exactly. Nothing is trained.

In: a `PlantedSpec` and a seed. Out: a `PlantedWorld`: adapters, and truths as adapters. The delta of adapter `i` is

    sum_s strength_s * c_is * u_s v_s^T   +   sum_t strength_t * p_it q_it^T   +   noise,

with `u`, `v` shared by all, `p`, `q` private to one, and `c_is` near 1 or, in a conflict, near -1. All directions are
of unit length; shared ones are orthogonal to everything else, private ones of two adapters meet at a cosine of
`overlap` on either side. Noise is added to the factors, so an adapter keeps its rank. Refused: more directions than a
side has room for, a rank below the shared part, shares and sizes out of range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tclora.adapters import Adapter, LoraFactors, make_adapter
from tclora.algebra import ModuleStack
from tclora.errors import ConfigError
from tclora.shapes import Float

__all__ = ["TRUTHS", "PlantedSpec", "PlantedWorld", "Terms", "plant", "stack_of"]

TRUTHS = {
    "keep": "every shared direction once at full size, and every adapter's private part at full size",
    "shared": "every shared direction once at full size, and nothing else",
    "mean": "the mean of the deltas without noise",
}
Real = float | int


@dataclass(frozen=True)
class PlantedSpec:
    """What is planted. The strengths of an adapter's shared and private directions fall by `decay` from each to the
    next, from `shared_strength` and from 1.

    Raises:
        ConfigError: a number is out of range, or the directions do not fit into a side.
    """

    n_adapters: int = 6
    d_out: int = 96
    d_in: int = 80
    rank: int = 8
    """Of every adapter: `n_shared` shared directions, the others private."""
    n_shared: int = 3
    n_modules: int = 2
    overlap: Real = 0.0
    """Cosine of the private directions of two adapters, on the out side and on the in side: 0 to below 1."""
    shared_strength: Real = 1.0
    decay: Real = 0.8
    spread: Real = 0.0
    """Standard deviation of the logarithm of an adapter's share in a shared direction; 0: all hold it alike."""
    sign_conflict: Real = 0.0
    """The share of the adapters that hold a shared direction with the opposite sign, below one half."""
    noise: Real = 0.0
    """Frobenius norm of the noise over that of the adapter's delta, to first order."""
    scrambled: bool = True
    """Whether the factors are mixed by a random invertible matrix, which changes no delta."""

    def __post_init__(self):
        lowest = {"n_adapters": 1, "d_out": 1, "d_in": 1, "rank": 1, "n_modules": 1}
        for item in fields(self):
            low, value = lowest.get(item.name, 0), getattr(self, item.name)
            if value < low:
                raise ConfigError(f"{item.name} of planted adapters is too small", found=value, expected=f">= {low}")
        for name, end in (("overlap", 1.0), ("sign_conflict", 0.5)):
            if getattr(self, name) >= end:
                raise ConfigError(
                    f"{name} of planted adapters is too large", found=getattr(self, name), expected=f"below {end:g}"
                )
        self._check_room()

    @property
    def n_private(self) -> int:
        """Private directions of one adapter."""
        return self.rank - self.n_shared

    @property
    def n_directions(self) -> int:
        """Orthonormal directions that one side is built from."""
        common = self.n_private if self.overlap else 0
        return self.n_shared + common + self.n_adapters * self.n_private

    def _check_room(self) -> None:
        if self.n_private < 0:
            raise ConfigError("the shared directions exceed the rank", found=self.n_shared, expected=f"<= {self.rank}")
        if not self.n_private and not self.shared_strength:
            raise ConfigError("nothing is planted", found="no private directions, and shared ones of no strength")
        if self.n_directions > min(self.d_out, self.d_in):
            raise ConfigError(
                "the planted directions do not fit",
                found=f"{self.n_directions} directions on sides of {self.d_out} and {self.d_in}",
                expected=f"sides of at least {self.n_directions}",
                do="plant fewer adapters or a lower rank, or raise d_out and d_in",
            )


@dataclass(frozen=True)
class Terms:
    """The rank-one terms of one module without noise: shared ones first, then those of adapter 0, 1 ...

    Term `t` of adapter `i` is `adapter[i, t] * outer(out[:, t], in_[:, t])`; `out` and `in_` have unit columns.
    """

    out: Float[Tensor, "d_out T"]
    in_: Float[Tensor, "d_in T"]
    adapter: Float[Tensor, "n T"]


@dataclass(frozen=True)
class PlantedWorld:
    """Adapters, and what is true of them: `truths` by the names of `TRUTHS`, `terms` by module.

    Where nothing is shared there is no truth `shared`.
    """

    spec: PlantedSpec
    seed: int
    adapters: tuple[Adapter, ...]
    truths: Mapping[str, Adapter]
    terms: Mapping[str, Terms]


def plant(spec: PlantedSpec, *, seed: int) -> PlantedWorld:
    """Make the adapters of a specification; equal arguments give equal bytes.

    Adapters are float32, as adapters read from disk are; truths and terms are float64.
    """
    generator = torch.Generator().manual_seed(seed)
    adapters: list[dict[str, LoraFactors]] = [{} for _ in range(spec.n_adapters)]
    truths: dict[str, dict[str, LoraFactors]] = {}
    every: dict[str, Terms] = {}
    for j in range(spec.n_modules):
        name = f"model.layers.{j}.proj"
        terms = every[name] = _terms(spec, generator)
        for i, modules in enumerate(adapters):
            modules[name] = _factors(spec, terms, i, generator)
        for truth, weights in _truth_weights(spec, terms).items():
            truths.setdefault(truth, {})[name] = LoraFactors(terms.in_.mT.contiguous(), terms.out * weights)
    return PlantedWorld(
        spec=spec,
        seed=seed,
        adapters=tuple(make_adapter(f"planted-{i}", modules) for i, modules in enumerate(adapters)),
        truths={truth: make_adapter(truth, modules) for truth, modules in truths.items()},
        terms=every,
    )


def stack_of(world: PlantedWorld) -> ModuleStack:
    """All modules of the world as one stack, in float64."""
    names = tuple(world.terms)
    sides = [
        torch.stack([torch.cat([part(adapter.modules[name]) for adapter in world.adapters], 1) for name in names])
        for part in (lambda factors: factors.lora_b.double(), lambda factors: factors.lora_a.mT.double())
    ]
    return ModuleStack(names, sides[0], sides[1], (world.spec.rank,) * world.spec.n_adapters)


def _terms(spec: PlantedSpec, generator: torch.Generator) -> Terms:
    out, in_ = _directions(spec, spec.d_out, generator), _directions(spec, spec.d_in, generator)
    n, shared, private = spec.n_adapters, spec.n_shared, spec.n_private
    adapter = torch.zeros(n, shared + n * private, dtype=torch.float64)
    strengths = spec.decay ** torch.arange(max(shared, private), dtype=torch.float64)
    adapter[:, :shared] = spec.shared_strength * strengths[:shared] * _shares(spec, generator)
    for i in range(n):
        adapter[i, shared + i * private : shared + (i + 1) * private] = strengths[:private]
    return Terms(out, in_, adapter)


def _directions(spec: PlantedSpec, d: int, generator: torch.Generator) -> Float[Tensor, "d T"]:
    """Unit columns: shared, then the private ones of each adapter, which lean to a common direction each."""
    basis = torch.linalg.qr(torch.randn(d, spec.n_directions, generator=generator, dtype=torch.float64)).Q
    own = basis[:, spec.n_directions - spec.n_adapters * spec.n_private :]
    if spec.overlap:
        common = basis[:, spec.n_shared : spec.n_shared + spec.n_private].repeat(1, spec.n_adapters)
        own = spec.overlap**0.5 * common + (1 - spec.overlap) ** 0.5 * own
    return torch.cat([basis[:, : spec.n_shared], own], dim=1)


def _shares(spec: PlantedSpec, generator: torch.Generator) -> Float[Tensor, "n n_shared"]:
    """How much of each shared direction each adapter holds, opposite signs included."""
    n = spec.n_adapters
    normal = torch.randn(n, spec.n_shared, generator=generator, dtype=torch.float64)
    shares = torch.exp(spec.spread * normal)
    n_opposite = round(spec.sign_conflict * n)
    for s in range(spec.n_shared):
        shares[torch.randperm(n, generator=generator)[:n_opposite], s] *= -1
    return shares


def _factors(spec: PlantedSpec, terms: Terms, i: int, generator: torch.Generator) -> LoraFactors:
    """Adapter `i` with its noise, factors mixed so that they show nothing of how they were made."""
    own = slice(spec.n_shared + i * spec.n_private, spec.n_shared + (i + 1) * spec.n_private)
    sides = [torch.cat([side[:, : spec.n_shared], side[:, own]], 1) for side in (terms.out, terms.in_)]
    sizes = torch.cat([terms.adapter[i, : spec.n_shared], terms.adapter[i, own]])
    lora_b, lora_a = sides[0] * sizes.sign() * sizes.abs().sqrt(), (sides[1] * sizes.abs().sqrt()).mT
    errors = [torch.randn(side.shape, generator=generator, dtype=torch.float64) for side in (lora_b, lora_a)]
    first_order = errors[0] @ lora_a + lora_b @ errors[1]
    size = spec.noise * torch.linalg.matrix_norm(lora_b @ lora_a) / torch.linalg.matrix_norm(first_order)
    lora_b, lora_a = lora_b + size * errors[0], lora_a + size * errors[1]
    if spec.scrambled:
        mixing = _mixing(spec.rank, generator)
        lora_b, lora_a = lora_b @ mixing, torch.linalg.solve(mixing, lora_a)
    return LoraFactors(lora_a.float(), lora_b.float())


def _mixing(r: int, generator: torch.Generator) -> Float[Tensor, "r r"]:
    """A random matrix with singular values from 1/2 to 2, so that unmixing costs no digits."""
    turns = [torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64)).Q for _ in range(2)]
    values = 2 ** (2 * torch.rand(r, generator=generator, dtype=torch.float64) - 1)
    return turns[0] * values @ turns[1]


def _truth_weights(spec: PlantedSpec, terms: Terms) -> dict[str, Float[Tensor, " T"]]:
    """How much of each term each truth holds."""
    full = spec.shared_strength * spec.decay ** torch.arange(spec.n_shared, dtype=torch.float64)
    private = terms.adapter[:, spec.n_shared :].sum(dim=0)
    found = {
        "keep": torch.cat([full, private]),
        "shared": torch.cat([full, torch.zeros_like(private)]),
        "mean": terms.adapter.mean(dim=0),
    }
    return {name: weights for name, weights in found.items() if weights.any()}
