"""Where adapters collide: interference, overlap, sign conflict and effective rank, module by module.

A `ModuleStack` goes in, figures come out (`analyse_stacks`); nothing needs the base model and nothing of size
`d_out * d_in` is built.
"""

from tclora.analysis.analyse import analyse_measured, analyse_stacks, measure_batch
from tclora.analysis.interference import (
    Interference,
    cp_singular_task_interference,
    singular_task_interference,
)
from tclora.analysis.measure import Measured
from tclora.analysis.records import (
    AdapterFigures,
    Analysis,
    CpFigures,
    FitPoint,
    ModuleFigures,
    PairFigures,
    Summary,
)
from tclora.analysis.settings import AnalysisSettings
from tclora.analysis.signs import SignConflict, sign_conflict
from tclora.analysis.write import ANALYSIS_FILES, fill_analysis_folder

__all__ = [
    "ANALYSIS_FILES",
    "AdapterFigures",
    "Analysis",
    "AnalysisSettings",
    "CpFigures",
    "FitPoint",
    "Interference",
    "Measured",
    "ModuleFigures",
    "PairFigures",
    "SignConflict",
    "Summary",
    "analyse_measured",
    "analyse_stacks",
    "cp_singular_task_interference",
    "fill_analysis_folder",
    "measure_batch",
    "sign_conflict",
    "singular_task_interference",
]
