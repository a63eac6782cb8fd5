"""All measures of one batch of modules, from stack to figures.

In: a `ModuleStack` and the names of its adapters. Out: `ModuleFigures` for each module, and the inner products of its
deltas, from which cosines over all modules are made. One set of inner products of singular vectors serves every measure
but the signs, which need entries; only a CP model needs joint bases.
"""

from dataclasses import dataclass

from torch import Tensor

from tclora.algebra import CompressedStack, ModuleStack, compress_stack
from tclora.analysis.cp_figures import cp_figures, fit_cp, fit_curves
from tclora.analysis.gram_path import singular_grams
from tclora.analysis.grams import SingularGrams, adapter_gram, adapter_pairs, grams_of
from tclora.analysis.interference import interference_of
from tclora.analysis.overlap import pair_cosines, principal_cosines, shared_energy
from tclora.analysis.own_axes import in_own_axes
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
    grams, compressed = _inner_products(stack, settings)
    gram = adapter_gram(grams)
    signs = sign_conflict(stack, seed=settings.seed, grid=settings.grid)
    pairs = _pair_columns(grams, gram, signs)
    scalars = _overlap_columns(grams, gram, pairs) | _sign_columns(pairs, signs) | _spectrum_columns(grams)
    fits, curves = _cp(compressed, grams, gram, settings)
    per_adapter, per_pair = _adapter_rows(grams, gram, adapters), _pair_rows(pairs, adapters)
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


def plain(columns: Tensor) -> list:
    """A tensor as nested lists of numbers, NaN as None."""
    values = columns.tolist()
    return _without_nan(values) if bool(columns.isnan().any()) else values


def _without_nan(values: list) -> list:
    return [_without_nan(value) if isinstance(value, list) else (None if value != value else value) for value in values]


def _inner_products(stack: ModuleStack, settings: AnalysisSettings) -> tuple[SingularGrams, CompressedStack | None]:
    """What all measures of overlap are taken from, and what CP models are fitted to, where any are."""
    if 0 < stack.total_rank <= min(stack.out_stack.shape[1], stack.in_stack.shape[1]):
        grams = singular_grams(stack)
        return grams, in_own_axes(stack.names, grams) if settings.fits_models else None
    # With more columns than rows, joint bases are smaller than a Gram matrix of columns.
    compressed = compress_stack(stack)
    return grams_of(compressed), compressed if settings.fits_models else None


def _pair_columns(grams: SingularGrams, gram: Tensor, signs: SignConflict) -> dict[str, Tensor]:
    """What `PairFigures` holds of each pair, in its order of fields."""
    found = {"cosine": pair_cosines(gram)}
    for side, inner in (("out", grams.out_gram), ("in", grams.in_gram)):
        cosines = principal_cosines(inner, grams)
        found |= {f"{side}_cosine_{name}": getattr(cosines, name) for name in ("mean", "largest", "smallest")}
    return found | {"sign_conflict": signs.pair_share, "sign_conflict_weighted": signs.pair_weighted}


def _overlap_columns(grams: SingularGrams, gram: Tensor, pairs: dict[str, Tensor]) -> dict[str, list]:
    sti = interference_of(grams)
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


def _spectrum_columns(grams: SingularGrams) -> dict[str, list]:
    found = {"norm": grams.values.square().sum(dim=1).sqrt()}
    for side, spectrum in (("out", grams.out_spectrum), ("in", grams.in_spectrum)):
        found |= {f"{side}_effective_rank": entropy_rank(spectrum), f"{side}_participation": participation(spectrum)}
    return {name: plain(column) for name, column in found.items()}


def _cp(
    compressed: CompressedStack | None, grams: SingularGrams, gram: Tensor, settings: AnalysisSettings
) -> tuple[list[CpFigures | None], list[tuple[FitPoint, ...]]]:
    if compressed is None:
        return [None] * len(gram), fit_curves(grams, gram, settings, {})
    fits = fit_cp(compressed, settings)
    figures: list[CpFigures | None] = [None] * len(gram)
    if settings.cp_rank is not None:
        figures = list(cp_figures(fits[settings.cp_rank], settings.cp_rank, _n_present(gram)))
    return figures, fit_curves(grams, gram, settings, fits)


def _n_present(gram: Tensor) -> Tensor:
    """How many adapters have a delta that is not zero."""
    return (gram.diagonal(dim1=1, dim2=2) > 0).sum(dim=1)


def _adapter_rows(grams: SingularGrams, gram: Tensor, adapters: tuple[str, ...]) -> list[tuple[AdapterFigures, ...]]:
    values = grams.by_adapter(grams.values)
    norms = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    columns = [column.tolist() for column in (norms, entropy_rank(values), participation(values))]
    return [tuple(map(AdapterFigures, adapters, grams.ranks, *figures)) for figures in zip(*columns, strict=True)]


def _pair_rows(pairs: dict[str, Tensor], adapters: tuple[str, ...]) -> list[tuple[PairFigures, ...]]:
    first, second = ([adapters[i] for i in places.tolist()] for places in adapter_pairs(len(adapters)))
    columns = [plain(column) for column in pairs.values()]
    return [tuple(map(PairFigures, first, second, *figures)) for figures in zip(*columns, strict=True)]
