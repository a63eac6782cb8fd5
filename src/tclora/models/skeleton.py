"""A base model without its weights: tokenizer, prompt format and module names, from small files only.

In: a `BaseModelConfig`. Out: a `Base` whose model lies on torch's meta device: its modules have names and shapes, and
it cannot be run. So jobs for a large base can be written on a machine that could never load it. Refused: what
`load_base` refuses, but for the weights, which are not looked at.
"""

from typing import Any

import torch

from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, MissingExtraError
from tclora.models.base import Base, described, local_base_path, quiet_loading

__all__ = ["load_skeleton"]


def load_skeleton(config: BaseModelConfig) -> Base:
    """Everything of the base that is not weights: enough to tokenize examples and to resolve target modules.

    Raises:
        ConfigError: the path is no model, or the tokenizer lacks the chat template asked for.
        MissingExtraError: transformers is not installed.
    """
    model, tokenizer = _from_files(config)
    return described(config, model, tokenizer, torch.device("meta"))


def _from_files(config: BaseModelConfig) -> tuple[Any, Any]:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError(
            "a base model's tokenizer cannot be read without transformers",
            where="base.path",
            do="pip install 'tclora[library]'",
        ) from None
    folder = local_base_path(config)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    options |= {"local_files_only": True} if folder is not None else {"revision": config.revision or "main"}
    source = str(folder) if folder is not None else config.path
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            shape = AutoConfig.from_pretrained(source, **options)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(shape, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and its own, by the file at fault
        raise ConfigError(
            "the base model's config and tokenizer cannot be read",
            where=config.path,
            found=f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}",
            expected="config.json and tokenizer files of a causal language model",
            do="check the path or id; offline, give a folder",
        ) from error
    return model, tokenizer
