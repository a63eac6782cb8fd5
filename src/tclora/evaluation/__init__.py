"""Scoring: one base load, many adapters; loss, exact match and multiple choice, each with its interval."""

from tclora.evaluation.contestants import ChoiceSet, Contestant, DevSet
from tclora.evaluation.evaluate import evaluate
from tclora.evaluation.matching import is_exact_match, normalize_answer
from tclora.evaluation.statistics import accuracy, mean_loss, paired_difference

__all__ = [
    "ChoiceSet",
    "Contestant",
    "DevSet",
    "accuracy",
    "evaluate",
    "is_exact_match",
    "mean_loss",
    "normalize_answer",
    "paired_difference",
]
