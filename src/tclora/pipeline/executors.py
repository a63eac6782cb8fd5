"""The executor of a run: what its settings ask for, told which folders the jobs of a run need.

In: a run's settings and folder. Out: an executor that starts nothing before its first job.
"""

from tclora.config import RunConfig
from tclora.execution import Executor, make_executor
from tclora.models import BUNDLED, local_base_path
from tclora.pipeline.layout import RunFolder

__all__ = ["executor_for"]


def executor_for(config: RunConfig, run: RunFolder) -> Executor:
    """The executor on which the jobs of this run are done.

    Raises:
        ConfigError: the base's path is no folder.
    """
    base = local_base_path(config.base)
    # The bundled base comes with tclora, whose version every node must share anyway.
    reads = () if base is None or config.base.path == BUNDLED else (base,)
    return make_executor(config.execution, run.root, reads=reads, gpus=config.base.device != "cpu")
