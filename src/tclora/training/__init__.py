"""From clusters of examples to LoRA adapters: deterministic, and resumable after a kill at any instant."""

from tclora.training.job import TrainJob, job_digest
from tclora.training.plan import Plan, expected_steps, learning_rate, plan_batches
from tclora.training.together import train_together
from tclora.training.train import is_finished, train_adapter, train_library

__all__ = [
    "Plan",
    "TrainJob",
    "expected_steps",
    "is_finished",
    "job_digest",
    "learning_rate",
    "plan_batches",
    "train_adapter",
    "train_library",
    "train_together",
]
