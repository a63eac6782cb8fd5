"""The names of dtypes on the command line and in YAML."""

import torch

from tclora.errors import ConfigError

__all__ = ["DTYPES", "torch_dtype"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def torch_dtype(name: str) -> torch.dtype:
    """The dtype called `name`: bf16, fp16 or fp32."""
    if name not in DTYPES:
        raise ConfigError("there is no such output dtype", found=name, expected=", ".join(DTYPES))
    return DTYPES[name]
