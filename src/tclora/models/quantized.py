"""A base whose linear layers are held in 4 bits, so that a large one fits beside its adapters on one GPU.

In: the settings of a base. Out: the options with which transformers loads it through bitsandbytes: NF4 with the scales
quantized too, multiplied in the base's dtype. Refused: a CPU, for bitsandbytes unpacks every weight at every use
there, and a small base in full precision is faster; and a machine without bitsandbytes.

Source: QLoRA, Dettmers et al. 2023, arXiv 2305.14314.
"""

import importlib.util
from typing import Any

import torch

from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, MissingExtraError

__all__ = ["quantization_options"]


def quantization_options(config: BaseModelConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` needs besides the path; nothing for a base that is not quantized.

    Raises:
        ConfigError: the base would be on the CPU.
        MissingExtraError: bitsandbytes is not installed.
    """
    if config.quantization == "none":
        return {}
    if device.type != "cuda":
        raise ConfigError(
            "a 4-bit base needs a CUDA device",
            where="base.quantization",
            found=f"4bit on {device.type}: every weight would be unpacked at every use",
            expected="a CUDA device, or quantization: none",
            do="set base.quantization to none, or run where there is a GPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            "a 4-bit base cannot be loaded without bitsandbytes",
            where="base.quantization",
            found="bitsandbytes is not installed",
            expected="bitsandbytes, beside the 'library' extra",
            do="pip install 'tclora[library]' bitsandbytes",
        )
    from transformers import BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": nf4, "device_map": {"": device}}
