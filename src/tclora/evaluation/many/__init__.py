"""Many adapters, one base load: answers kept item by item, figures with intervals, compared pairs."""

from tclora.evaluation.many.answering import Entrant, EntrantAnswers, answer_tasks
from tclora.evaluation.many.asks import Asked, ask_items
from tclora.evaluation.many.backend import Backend, LmEvalBackend, OwnBackend
from tclora.evaluation.many.comparing import bootstrap_p, draw_means, mcnemar_p
from tclora.evaluation.many.figures import MACRO, Figures, figures_of
from tclora.evaluation.many.judged import JudgedStore, judged_name
from tclora.evaluation.many.scoring import TaskValues, score_task
from tclora.evaluation.many.store import AnswerStore, answer_json

__all__ = [
    "MACRO",
    "AnswerStore",
    "Asked",
    "Backend",
    "Entrant",
    "EntrantAnswers",
    "Figures",
    "JudgedStore",
    "LmEvalBackend",
    "OwnBackend",
    "TaskValues",
    "answer_json",
    "answer_tasks",
    "ask_items",
    "bootstrap_p",
    "draw_means",
    "figures_of",
    "judged_name",
    "mcnemar_p",
    "score_task",
]
