"""Does a CP model of planted adapters depend on where it starts and how long it sweeps? Every start, by itself.

In: a planted world, a number of terms, sweeps and starts. Out: `CpTrial`s, one for every module and start: relative
error, and how many of the planted terms were found. `cp_als` keeps the best of its starts; here each one is taken to
the end, so that their spread can be seen, and the solver's own choice stands beside them. Refused: as `cp_als`.
"""

from dataclasses import dataclass

from torch import Tensor

from tclora.algebra import CompressedStack, compress_stack, cp_als
from tclora.algebra.cp_run import run_als
from tclora.algebra.cp_starts import make_starts
from tclora.algebra.slices import Slices
from tclora.errors import ConfigError
from tclora.testbeds.factor_match import factor_match
from tclora.testbeds.planted import PlantedWorld, stack_of

__all__ = ["SOLVER", "CpTrial", "cp_trials"]

SOLVER = "cp_als"
"""The name of the solver's own choice among its starts."""


@dataclass(frozen=True)
class CpTrial:
    """Where one start of one module ended."""

    module: str
    start: str
    relative_error: float
    factor_match: float
    converged: bool


def cp_trials(
    world: PlantedWorld, *, cp_rank: int, sweeps: int, n_starts: int, seed: int = 0, tol: float = 1e-7
) -> tuple[CpTrial, ...]:
    """Fit a CP model to every module, from every start, for at most `sweeps` sweeps.

    The starts are the two made of singular vectors and `n_starts` random ones. Errors are Frobenius ratios against the
    adapters, noise included; the match is with the planted terms.

    Raises:
        ConfigError: `sweeps` is below 1, or `n_starts` below 0.
        ShapeError: `cp_rank` is below 1.
    """
    if sweeps < 1 or n_starts < 0:
        raise ConfigError("there is nothing to try", found=f"{sweeps} sweeps, {n_starts} random starts")
    compressed = compress_stack(stack_of(world))
    solved = cp_als(compressed, cp_rank, max_iter=sweeps, tol=tol, n_starts=n_starts, seed=seed)
    chosen = solved.factors
    modes = (compressed.out_side.lift(chosen.out_factor), compressed.in_side.lift(chosen.in_factor))
    found = _matches(world, (*modes, chosen.coordinates()))
    trials = [
        CpTrial(module, SOLVER, float(solved.relative_error[j]), found[j], bool(solved.converged[j]))
        for j, module in enumerate(compressed.names)
    ]
    slices = _unit_slices(compressed)
    starts, names = make_starts(slices, cp_rank, n_starts=n_starts, seed=seed)
    run = run_als(slices, starts, sweeps=sweeps, tol=tol)
    for k, name in enumerate(names):
        out, in_, adapter = (factor[:, k] for factor in run.state.factors())
        found = _matches(world, (compressed.out_side.lift(out), compressed.in_side.lift(in_), adapter))
        trials += [
            CpTrial(module, name, float(run.error[j, k]), found[j], bool(run.converged[j, k]))
            for j, module in enumerate(compressed.names)
        ]
    return tuple(trials)


def _unit_slices(compressed: CompressedStack) -> Slices:
    """The slices of every module at norm 1, which the sweeps ask for."""
    slices = Slices(compressed.out_blocks, compressed.in_blocks, compressed.ranks)
    root = slices.size().sqrt()[:, None, None]
    return Slices(slices.out_blocks / root, slices.in_blocks / root, slices.ranks)


def _matches(world: PlantedWorld, modes: tuple[Tensor, Tensor, Tensor]) -> list[float]:
    """The factor match of every module; `modes` are `(m, ..., R)`."""
    planted = [world.terms[module] for module in world.terms]
    return [
        factor_match([mode[j] for mode in modes], (terms.out, terms.in_, terms.adapter))
        for j, terms in enumerate(planted)
    ]
