"""lm-eval as a back end: its tasks by name, its model class around one loaded base whose adapters are switched."""

from tclora.evaluation.lm_eval_backend.answers import LmEvalModel
from tclora.evaluation.lm_eval_backend.loading import load_lm_eval_tasks
from tclora.evaluation.lm_eval_backend.task import LmEvalTask

__all__ = ["LmEvalModel", "LmEvalTask", "load_lm_eval_tasks"]
