"""Figures of modules put together: per layer and kind, per layer, per kind, and over all.

In: `ModuleFigures`. Out: `Summary` records. A summary is the plain mean over the modules where a figure is defined, so
that large modules do not hide small ones; `norm` alone is the root of the sum of squares.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from tclora.analysis.paths import layer_label
from tclora.analysis.records import CpFigures, ModuleFigures, Summary

__all__ = ["ALL", "summarize", "total_of"]

ALL = "all"


def summarize(modules: Sequence[ModuleFigures]) -> tuple[Summary, ...]:
    """Every layer and kind, then every layer, then every kind; layers in order, modules outside layers last."""
    layers = sorted({m.layer for m in modules}, key=lambda layer: (layer is None, layer))
    kinds = sorted({m.kind for m in modules})
    cells = [
        _summary(layer_label(layer), kind, [m for m in modules if (m.layer, m.kind) == (layer, kind)])
        for layer in layers
        for kind in kinds
    ]
    cells += [_summary(layer_label(layer), ALL, [m for m in modules if m.layer == layer]) for layer in layers]
    cells += [_summary(ALL, kind, [m for m in modules if m.kind == kind]) for kind in kinds]
    return tuple(cell for cell in cells if cell.n_modules)


def total_of(modules: Sequence[ModuleFigures]) -> Summary:
    """Over all modules."""
    return _summary(ALL, ALL, modules)


def _summary(layer: str, kind: str, modules: Sequence[ModuleFigures]) -> Summary:
    return Summary(
        layer=layer,
        kind=kind,
        n_modules=len(modules),
        norm=math.sqrt(sum(m.norm**2 for m in modules)),
        sti_ratio=_mean(m.sti_ratio for m in modules) or 0.0,
        cosine=_mean(m.cosine for m in modules),
        shared_energy=_mean(m.shared_energy for m in modules),
        pair_sign_conflict=_mean(m.pair_sign_conflict for m in modules),
        cancelled=_mean(m.cancelled for m in modules),
        cp_sti_ratio=_cp_mean(modules, lambda cp: cp.sti_ratio),
        cp_fit=_cp_mean(modules, lambda cp: cp.fit),
        cp_shared_energy=_cp_mean(modules, lambda cp: cp.shared_energy),
    )


def _cp_mean(modules: Sequence[ModuleFigures], figure: Callable[[CpFigures], float | None]) -> float | None:
    return _mean(figure(m.cp) for m in modules if m.cp is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
