"""The CP model of each module as figures: interference of its terms, who takes part in them, how well it fits.

In: a compressed stack. Out: `CpFigures` per module, and the curve of fit against number of terms: bounds from singular
values, which cost nothing, and fits where they are asked for.
"""

from torch import Tensor

from tclora.algebra import CompressedStack, CpFit, cp_als
from tclora.algebra.cp_bounds import CpBounds
from tclora.analysis.interference import cp_singular_task_interference
from tclora.analysis.records import CpFigures, FitPoint
from tclora.analysis.settings import AnalysisSettings
from tclora.analysis.spectrum import shared_cp_energy, term_participation
from tclora.shapes import Int

__all__ = ["CURVE_RANKS", "cp_figures", "fit_cp", "fit_curves"]

CURVE_RANKS = (1, 2, 5, 10, 20, 40)


def fit_cp(compressed: CompressedStack, cp_rank: int, settings: AnalysisSettings) -> CpFit:
    """The CP model that the analysis looks at: few starts and sweeps, for its figures settle early."""
    return cp_als(
        compressed,
        cp_rank,
        max_iter=settings.max_iter,
        n_starts=settings.n_starts,
        n_finalists=1,
        tol=1e-5,
        seed=settings.seed,
    )


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
    compressed: CompressedStack, bounds: CpBounds, fit: CpFit | None, settings: AnalysisSettings
) -> list[tuple[FitPoint, ...]]:
    """Fit against number of terms for each module, at a few ranks up to P and at the rank of the analysis.

    `fit` is the model at that rank. The models at the other ranks are fitted only where `settings.curve` asks for them.
    """
    chosen = settings.cp_rank or 0
    ranks = sorted({r for r in CURVE_RANKS if r <= max(1, compressed.out_blocks.shape[2])} | ({chosen} - {0}))
    points = []
    for rank in ranks:
        made = fit if rank == chosen else fit_cp(compressed, rank, settings) if settings.curve else None
        errors = [None] * compressed.m if made is None else made.relative_error.tolist()
        least, reached = (bound.tolist() for bound in bounds.relative_errors(rank))
        rows = zip(reached, least, errors, strict=True)
        points.append([FitPoint(rank, 1 - a, 1 - b, None if e is None else 1 - e) for a, b, e in rows])
    return [tuple(column) for column in zip(*points, strict=True)]
