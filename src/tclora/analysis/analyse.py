"""Where adapters of one base model collide: all measures of all modules, without the base model.

In: stacks of modules, one after another, so that a library larger than memory can be analyzed. Out: an `Analysis` of
plain numbers. Everything is taken from the factors; nothing of size `d_out * d_in` is built.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tclora.algebra import ModuleStack
from tclora.analysis.grams import adapter_pairs
from tclora.analysis.measure import Measured, measure_stack
from tclora.analysis.overlap import pair_cosines
from tclora.analysis.paths import places_of
from tclora.analysis.records import Analysis, ModuleFigures, PairFigures
from tclora.analysis.settings import AnalysisSettings
from tclora.analysis.summary import summarize, total_of
from tclora.errors import ConfigError, ShapeError

__all__ = ["analyse_measured", "analyse_stacks", "measure_batch"]


def analyse_stacks(
    stacks: Iterable[ModuleStack],
    adapters: Sequence[str],
    settings: AnalysisSettings | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Analysis:
    """Measure how the adapters of every module overlap and interfere.

    Scaling all adapters changes norms and raw interferences and no other figure; the gauge of their factors and the
    batches that modules come in change nothing. Nor does the order of the adapters, but for the CP model, which may
    settle elsewhere: give them in one order, as a merge plan does.

    Args:
        stacks: every module once, in any order and any batches; all with the same adapters.
        adapters: a name for each adapter of the stacks, each used once.
        on_progress: called with the number of modules done.

    Raises:
        ConfigError: there are no stacks, or two adapters have one name.
        ShapeError: a stack has another number of adapters.
        NumericalError: a factor holds NaN or infinity; names module and adapter.
    """
    names, chosen = tuple(adapters), settings or AnalysisSettings()
    measured = (measure_batch(stack, names, chosen) for stack in stacks)
    return analyse_measured(measured, names, chosen, on_progress=on_progress)


def measure_batch(stack: ModuleStack, adapters: tuple[str, ...], settings: AnalysisSettings) -> Measured:
    """All measures of one stack, once it is sure that it holds these adapters."""
    _check_stack(stack, adapters)
    return measure_stack(stack, adapters, settings)


def analyse_measured(
    measured: Iterable[Measured],
    adapters: Sequence[str],
    settings: AnalysisSettings,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Analysis:
    """Put measured batches together, however they were measured; otherwise as `analyse_stacks`."""
    names, chosen = tuple(adapters), settings
    if len(set(names)) != len(names):
        raise ConfigError("two adapters of an analysis have one name", found=", ".join(names))
    modules: list[ModuleFigures] = []
    gram = torch.zeros(len(names), len(names), dtype=torch.float64)
    for batch in measured:
        modules += batch.modules
        gram += batch.gram.sum(dim=0).cpu()
        if on_progress:
            on_progress(len(modules))
    if not modules:
        raise ConfigError("there is nothing to analyze", expected="at least one module")
    placed = _placed(modules)
    return Analysis(
        adapters=names,
        n_modules=len(placed),
        cp_rank=chosen.cp_rank,
        seed=chosen.seed,
        total=total_of(placed),
        cells=summarize(placed),
        pairs=_overall_pairs(gram, names),
        modules=placed,
    )


def _placed(modules: list[ModuleFigures]) -> tuple[ModuleFigures, ...]:
    """The modules with layer and kind, in order of layer; those outside the layers last."""
    places = places_of(figures.module for figures in modules)
    placed = [replace(m, layer=places[m.module].layer, kind=places[m.module].kind) for m in modules]
    return tuple(sorted(placed, key=lambda m: (m.layer is None, m.layer, m.module)))


def _overall_pairs(gram: Tensor, names: tuple[str, ...]) -> tuple[PairFigures, ...]:
    first, second = (index.tolist() for index in adapter_pairs(len(names)))
    cosines = pair_cosines(gram[None])[0].tolist()
    rows = zip(first, second, cosines, strict=True)
    return tuple(PairFigures(names[i], names[k], None if c != c else c) for i, k, c in rows)


def _check_stack(stack: ModuleStack, names: tuple[str, ...]) -> None:
    if stack.n != len(names):
        raise ShapeError(
            "a stack has another number of adapters than there are names",
            where=stack.names[0],
            found=f"{stack.n} adapters, {len(names)} names",
            do="give one name per adapter, in the order of the stack",
        )
