"""All measures of one batch of modules, from stack to figures.

In: a `ModuleStack` and the names of its adapters. Out: `ModuleFigures` for each module, and the inner products of its
deltas, from which cosines over all modules are made. One compression serves every measure but the signs, which need
entries.
"""

from dataclasses import dataclass

from torch import Tensor

from tclora.algebra import CompressedStack, ModuleStack, compress_stack
from tclora.algebra.cp_bounds import CpBounds, adapter_gram, cp_bounds
from tclora.analysis.columns import SingularColumns, adapter_pairs, singular_columns
from tclora.analysis.cp_figures import cp_figures, fit_cp, fit_curves
from tclora.analysis.interference import interference_of
from tclora.analysis.overlap import pair_cosines, principal_cosines, shared_energy
from tclora.analysis.records import AdapterFigures, CpFigures, FitPoint, ModuleFigures, PairFigures
from tclora.analysis.settings import AnalysisSettings
from tclora.analysis.signs import SignConflict, sign_conflict
from tclora.analysis.spectrum import entropy_rank, participation
from tclora.shapes import Float

__all__ = ["Measured", "measure_stack"]


@dataclass(frozen=True)
class Measured:
    """The figures of a batch, in its order; layer and kind are for the caller to fill in, who knows all modules."""

    modules: tuple[ModuleFigures, ...]
    gram: Float[Tensor, "m n n"]


def measure_stack(stack: ModuleStack, adapters: tuple[str, ...], settings: AnalysisSettings) -> Measured:
    """Measure every module of a stack.

    Raises:
        NumericalError: a factor holds NaN or infinity; names module and adapter.
    """
    compressed = compress_stack(stack)
    columns, gram, bounds = singular_columns(compressed), adapter_gram(compressed), cp_bounds(compressed)
    signs = sign_conflict(stack, seed=settings.seed, grid=settings.grid)
    pairs = _pair_columns(columns, gram, signs)
    scalars = _overlap_columns(columns, gram, pairs) | _sign_columns(pairs, signs) | _spectrum_columns(bounds)
    fits, curves = _cp(compressed, bounds, _n_present(gram), settings)
    per_adapter, per_pair = _adapter_rows(columns, gram, adapters), _pair_rows(pairs, adapters)
    modules = [
        ModuleFigures(
            module=name,
            layer=None,
            kind="",
            d_out=stack.out_stack.shape[1],
            d_in=stack.in_stack.shape[1],
            adapters=per_adapter[j],
            pairs=per_pair[j],
            curve=curves[j],
            cp=fits[j],
            **{key: column[j] for key, column in scalars.items()},
        )
        for j, name in enumerate(stack.names)
    ]
    return Measured(tuple(modules), gram)


def plain(column: Tensor) -> list:
    """A tensor of one axis as numbers, NaN as None."""
    return [None if value != value else value for value in column.tolist()]


def _pair_columns(columns: SingularColumns, gram: Tensor, signs: SignConflict) -> dict[str, Tensor]:
    found = {"cosine": pair_cosines(gram)}
    for side, unit in (("out", columns.out_unit), ("in", columns.in_unit)):
        cosines = principal_cosines(unit, columns)
        found |= {f"{side}_cosine_{name}": getattr(cosines, name) for name in ("mean", "largest", "smallest")}
    return found | {"sign_conflict": signs.pair_share, "sign_conflict_weighted": signs.pair_weighted}


def _overlap_columns(columns: SingularColumns, gram: Tensor, pairs: dict[str, Tensor]) -> dict[str, list]:
    sti = interference_of(columns)
    found = {
        "n_present": _n_present(gram),
        "sti": sti.raw,
        "sti_ratio": sti.ratio,
        "cosine": pairs["cosine"].nanmean(dim=1),
        "out_cosine": pairs["out_cosine_mean"].nanmean(dim=1),
        "in_cosine": pairs["in_cosine_mean"].nanmean(dim=1),
        "shared_energy": shared_energy(gram),
    }
    return {name: plain(column) for name, column in found.items()}


def _sign_columns(pairs: dict[str, Tensor], signs: SignConflict) -> dict[str, list]:
    found = {
        "sign_conflict": signs.share,
        "sign_conflict_weighted": signs.weighted,
        "pair_sign_conflict": pairs["sign_conflict_weighted"].nanmean(dim=1),
        "cancelled": signs.cancelled,
    }
    return {name: plain(column) for name, column in found.items()}


def _spectrum_columns(bounds: CpBounds) -> dict[str, list]:
    found = {"norm": bounds.energy.sqrt()}
    for side, spectrum in (("out", bounds.out_spectrum), ("in", bounds.in_spectrum)):
        found |= {f"{side}_effective_rank": entropy_rank(spectrum), f"{side}_participation": participation(spectrum)}
    return {name: plain(column) for name, column in found.items()}


def _cp(
    compressed: CompressedStack, bounds: CpBounds, n_present: Tensor, settings: AnalysisSettings
) -> tuple[list[CpFigures | None], list[tuple[FitPoint, ...]]]:
    if settings.cp_rank is None:
        return [None] * compressed.m, fit_curves(compressed, bounds, None, settings)
    fit = fit_cp(compressed, settings.cp_rank, settings)
    figures = cp_figures(fit, settings.cp_rank, n_present)
    return list(figures), fit_curves(compressed, bounds, fit, settings)


def _n_present(gram: Tensor) -> Tensor:
    """How many adapters have a delta that is not zero."""
    return (gram.diagonal(dim1=1, dim2=2) > 0).sum(dim=1)


def _adapter_rows(
    columns: SingularColumns, gram: Tensor, adapters: tuple[str, ...]
) -> list[tuple[AdapterFigures, ...]]:
    values = columns.by_adapter(columns.values)
    norms = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().tolist()
    entropy, energy = entropy_rank(values).tolist(), participation(values).tolist()
    return [
        tuple(
            AdapterFigures(name, columns.ranks[i], norms[j][i], entropy[j][i], energy[j][i])
            for i, name in enumerate(adapters)
        )
        for j in range(len(norms))
    ]


def _pair_rows(pairs: dict[str, Tensor], adapters: tuple[str, ...]) -> list[tuple[PairFigures, ...]]:
    names = [
        (adapters[i], adapters[k]) for i, k in zip(*(x.tolist() for x in adapter_pairs(len(adapters))), strict=True)
    ]
    plain_pairs = {key: [plain(row) for row in column] for key, column in pairs.items()}
    m = pairs["cosine"].shape[0]
    return [
        tuple(
            PairFigures(first, second, **{key: column[j][k] for key, column in plain_pairs.items()})
            for k, (first, second) in enumerate(names)
        )
        for j in range(m)
    ]
