"""The run's settings: YAML in, frozen pydantic models out. Unknown keys are refused with a suggestion."""

from tclora.config.load import apply_overrides, dump_config, load_config, parse_yaml, validate
from tclora.config.schema import (
    BaseModelConfig,
    ChoiceTaskConfig,
    ClusterConfig,
    DataConfig,
    EncodeConfig,
    EvaluateConfig,
    HoldOutConfig,
    MergeConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "BaseModelConfig",
    "ChoiceTaskConfig",
    "ClusterConfig",
    "DataConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "HoldOutConfig",
    "MergeConfig",
    "RunConfig",
    "TrainConfig",
    "apply_overrides",
    "dump_config",
    "load_config",
    "parse_yaml",
    "validate",
]
