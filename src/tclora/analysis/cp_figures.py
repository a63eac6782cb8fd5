"""The CP model of each module as figures: interference of its terms, who takes part in them, how well it fits.

In: a compressed stack. Out: `CpFigures` per module, and the curve of fit against number of terms: bounds from singular
values, which cost nothing, and fits where they are asked for.
"""

from collections.abc import Mapping

from torch import Tensor

from tclora.algebra import CompressedStack, CpFit, cp_als
from tclora.analysis.fit_bounds import fit_bounds
from tclora.analysis.grams import SingularGrams
from tclora.analysis.interference import cp_singular_task_interference
from tclora.analysis.records import CpFigures, FitPoint
from tclora.analysis.settings import AnalysisSettings
from tclora.analysis.spectrum import shared_cp_energy, term_participation
from tclora.shapes import Int

__all__ = ["CURVE_RANKS", "cp_figures", "fit_cp", "fit_curves"]

CURVE_RANKS = (1, 2, 5, 10, 20, 40)


def fit_cp(compressed: CompressedStack, settings: AnalysisSettings) -> dict[int, CpFit]:
    """The CP models that the analysis looks at, by number of terms: few starts and sweeps, for figures settle early."""
    ranks = _curve_ranks(compressed.out_blocks.shape[2], settings) if settings.curve else [settings.cp_rank or 1]
    return {
        rank: cp_als(
            compressed,
            # Beyond the sum of the ranks all terms are zeros.
            min(rank, max(1, compressed.out_blocks.shape[2])),
            max_iter=settings.max_iter,
            n_starts=settings.n_starts,
            n_finalists=1,
            tol=1e-5,
            seed=settings.seed,
        )
        for rank in ranks
    }


def cp_figures(fit: CpFit, cp_rank: int, n_present: Int[Tensor, " m"]) -> list[CpFigures]:
    """The figures of each module's CP model."""
    sti = cp_singular_task_interference(fit.factors)
    taking_part, shared = term_participation(fit.factors), shared_cp_energy(fit.factors, n_present)
    columns = {
        "n_terms": fit.n_terms,
        "fit": 1 - fit.relative_error,
        "sti": sti.raw,
        "sti_ratio": sti.ratio,
        "n_iter": fit.n_iter,
        "converged": fit.converged,
        "exact": fit.exact,
        "start_spread": fit.start_spread,
        "triple_cosine": fit.triple_cosine,
        "weight_energy": fit.weight_energy,
        "degenerate": fit.degenerate,
    }
    plain = {name: column.tolist() for name, column in columns.items()}
    plain["start"] = list(fit.start)
    plain["shared_energy"] = [None if x != x else x for x in shared.tolist()]
    return [
        CpFigures(
            cp_rank=cp_rank,
            participation=tuple(taking_part[j, :k].tolist()),
            weights=tuple(fit.factors.weights[j, :k].tolist()),
            **{name: column[j] for name, column in plain.items()},
        )
        for j, k in enumerate(fit.n_terms.tolist())
    ]


def fit_curves(
    grams: SingularGrams, gram: Tensor, settings: AnalysisSettings, fits: Mapping[int, CpFit]
) -> list[tuple[FitPoint, ...]]:
    """Fit against number of terms for each module, at a few ranks up to P and at the rank of the analysis.

    `gram` holds the inner products of the deltas, `fits` the models that were fitted, by rank.
    """
    ranks = _curve_ranks(sum(grams.ranks), settings)
    reached, at_most = (bound.mT.tolist() for bound in fit_bounds(grams, gram, ranks))
    fitted = [(1 - fits[r].relative_error).tolist() if r in fits else [None] * len(gram) for r in ranks]
    points = [
        [FitPoint(rank, *fit) for fit in zip(*columns, strict=True)]
        for rank, *columns in zip(ranks, reached, at_most, fitted, strict=True)
    ]
    return [tuple(column) for column in zip(*points, strict=True)]


def _curve_ranks(total_rank: int, settings: AnalysisSettings) -> list[int]:
    return sorted({r for r in CURVE_RANKS if r <= max(1, total_rank)} | ({settings.cp_rank or 0} - {0}))
