"""Settings of a run and of one merge: YAML in, frozen pydantic models out; unknown keys refused with a suggestion."""

from tclora.config.load import apply_overrides, dump_config, load_config, parse_yaml, read_yaml, validate
from tclora.config.merge_file import (
    config_kind,
    dump_merge_file,
    load_merge_file,
    merge_file_of,
    plain_merge_file,
    read_merge_keys,
)
from tclora.config.merge_schema import AdapterEntry, Filtered, MergeFile, OverrideEntry
from tclora.config.schema import (
    BaseModelConfig,
    ChoiceTaskConfig,
    ClusterConfig,
    DataConfig,
    EncodeConfig,
    EvaluateConfig,
    ExecutionConfig,
    HoldOutConfig,
    MergeConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "AdapterEntry",
    "BaseModelConfig",
    "ChoiceTaskConfig",
    "ClusterConfig",
    "DataConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "ExecutionConfig",
    "Filtered",
    "HoldOutConfig",
    "MergeConfig",
    "MergeFile",
    "OverrideEntry",
    "RunConfig",
    "TrainConfig",
    "apply_overrides",
    "config_kind",
    "dump_config",
    "dump_merge_file",
    "load_config",
    "load_merge_file",
    "merge_file_of",
    "parse_yaml",
    "plain_merge_file",
    "read_merge_keys",
    "read_yaml",
    "validate",
]
