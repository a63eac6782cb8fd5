"""Learning what to merge by: weights, statistics or factors from a base and a few examples, for any later merge."""

from tclora.merging.learning.adamerging import AdamergingParams
from tclora.merging.learning.distill import DistillParams
from tclora.merging.learning.learn import learn_weights, learns
from tclora.merging.learning.learned import Learned
from tclora.merging.learning.learned_cat import LearnedCatParams
from tclora.merging.learning.lorahub import LorahubParams
from tclora.merging.learning.problem import LearningProblem
from tclora.merging.learning.regmean import RegmeanParams
from tclora.merging.learning.statistics import AdapterStatistics
from tclora.merging.learning.store import LEARNED_NAME, read_learned, write_learned

__all__ = [
    "LEARNED_NAME",
    "AdamergingParams",
    "AdapterStatistics",
    "DistillParams",
    "Learned",
    "LearnedCatParams",
    "LearningProblem",
    "LorahubParams",
    "RegmeanParams",
    "learn_weights",
    "learns",
    "read_learned",
    "write_learned",
]
