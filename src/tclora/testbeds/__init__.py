"""Testbeds with a known answer: planted adapters, and pairs of small skills. No data set and no training in here."""

from tclora.testbeds.answer_formats import FORMATS, AnswerFormat
from tclora.testbeds.contents import CONTENTS, LEVELS, Question, draw_question
from tclora.testbeds.cp_stability import SOLVER, CpTrial, cp_trials
from tclora.testbeds.factor_match import best_pairs, factor_match
from tclora.testbeds.planted import TRUTHS, PlantedSpec, PlantedWorld, Terms, plant, stack_of
from tclora.testbeds.recovery import Recovery, recovery
from tclora.testbeds.skill_rows import SkillRow, Split, check_pair, content_rows, format_rows, joint_rows
from tclora.testbeds.skill_scoring import SkillScores, score_answer

__all__ = [
    "CONTENTS",
    "FORMATS",
    "LEVELS",
    "SOLVER",
    "TRUTHS",
    "AnswerFormat",
    "CpTrial",
    "PlantedSpec",
    "PlantedWorld",
    "Question",
    "Recovery",
    "SkillRow",
    "SkillScores",
    "Split",
    "Terms",
    "best_pairs",
    "check_pair",
    "content_rows",
    "cp_trials",
    "draw_question",
    "factor_match",
    "format_rows",
    "joint_rows",
    "plant",
    "recovery",
    "score_answer",
    "stack_of",
]
