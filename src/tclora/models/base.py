"""The frozen base model and its tokenizer, loaded once.

In: a `BaseModelConfig`. Out: a `Base`, in evaluation mode, no parameter of which wants a gradient. Refused: pickle
checkpoints, folders that are no model, ids that cannot be fetched, and code from the checkpoint unless it was allowed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tclora.config import BaseModelConfig
from tclora.errors import ConfigError, MissingExtraError
from tclora.models.quantized import quantization_options
from tclora.models.template import Template, choose_template

__all__ = [
    "BUNDLED",
    "BUNDLED_NAME",
    "Base",
    "bundled_base_path",
    "described",
    "load_base",
    "local_base_path",
    "quiet_loading",
]

BUNDLED = "bundled"
BUNDLED_NAME = "tclora/seed-lm"
"""What records and adapter configs call the bundled base: a name means the same on every machine, a path does not."""


@dataclass(frozen=True)
class Base:
    """A frozen causal language model with its tokenizer and prompt format."""

    model: Any
    tokenizer: Any
    template: Template
    name: str
    revision: str | None
    max_length: int
    """Tokens of prompt and response together; never more than the model has positions."""
    device: torch.device
    split_head: bool = False
    """True where the logits are exactly the output layer applied to the last hidden state, found by trying it."""

    @property
    def quantized(self) -> bool:
        """Whether the linear layers hold packed 4-bit weights and not numbers one could decompose."""
        return bool(getattr(self.model, "is_loaded_in_4bit", False))


def bundled_base_path() -> Path:
    """The folder of the small base model that ships with tclora."""
    return Path(__file__).parent / "assets" / "seed-lm"


def local_base_path(config: BaseModelConfig) -> Path | None:
    """The folder that holds the base, or None where `config.path` is a Hub id.

    Raises:
        ConfigError: the path is written as a folder and is none.
    """
    if config.path == BUNDLED:
        return bundled_base_path()
    folder = Path(os.path.expandvars(config.path)).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or config.path.startswith((".", "~", "$")) or config.path.count("/") != 1:
        raise ConfigError(
            "the base model cannot be found",
            where="base.path",
            found=f"no folder {config.path}",
            expected=f"a model folder, a Hub id (owner/name), or '{BUNDLED}'",
            do="correct base.path",
        )
    return None


def load_base(config: BaseModelConfig) -> Base:
    """Load the base model that the settings name, frozen and in evaluation mode.

    A folder is never looked up on the Hub. `dtype: auto` is bfloat16 on CUDA and float32 on the CPU: half-precision
    checkpoints are upcast there, since few CPUs multiply them faster and exact comparisons need the digits.
    `max_length` is lowered to the model's positions.

    Raises:
        ConfigError: the path is no model, the checkpoint is a pickle, the Hub cannot be reached, CUDA is asked for
            and absent, a quantized base is asked for without it, or the tokenizer lacks the chat template asked for.
        MissingExtraError: transformers, or for a quantized base bitsandbytes, is not installed.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    dtype = _dtype(config.dtype, device)
    model, tokenizer = _from_pretrained(config, dtype, quantization_options(config, device, dtype))
    model.requires_grad_(False)
    model.eval()
    if config.quantization == "none":
        model.to(device)  # packed weights are put in place while loading, and cannot be moved
    return replace(described(config, model, tokenizer, device), split_head=_logits_are_head_of_hidden(model, device))


def described(config: BaseModelConfig, model: Any, tokenizer: Any, device: torch.device) -> Base:
    """A model and its tokenizer with what the settings and the model say of them.

    Raises:
        ConfigError: the tokenizer lacks the chat template asked for.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    return Base(
        model=model,
        tokenizer=tokenizer,
        template=choose_template(config.template, tokenizer, where=config.path),
        name=BUNDLED_NAME if config.path == BUNDLED else config.path,
        revision=config.revision,
        max_length=min(config.max_length, positions) if isinstance(positions, int) else config.max_length,
        device=device,
    )


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "the base model cannot be put on CUDA",
            where="base.device",
            found="no CUDA device",
            expected="a CUDA device, as base.device asks",
            do="set base.device to auto or cpu",
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def _from_pretrained(config: BaseModelConfig, dtype: torch.dtype, more: dict[str, Any]) -> tuple[Any, Any]:
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError(
            "a base model cannot be loaded without transformers",
            where="base.path",
            found="transformers is not installed",
            expected="the 'library' extra",
            do="pip install 'tclora[library]'",
        ) from None
    folder = local_base_path(config)
    source = str(folder) if folder else config.path
    options: dict[str, Any] = {
        "revision": config.revision if folder is None else None,
        "local_files_only": folder is not None,
        "trust_remote_code": config.trust_remote_code,
    }
    options = {key: value for key, value in options.items() if value is not None}
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **options, **more)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and its own, by the file at fault
        raise _load_error(config.path, error) from error
    return model, tokenizer


def _load_error(path: str, error: Exception) -> ConfigError:
    first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
    return ConfigError(
        "the base model cannot be loaded",
        where=path,
        found=f"{type(error).__name__}: {first_line}",
        expected="config.json, tokenizer files and safetensors weights of a causal language model",
        do="check the path or id; offline, give a folder; convert pickle weights to safetensors",
    )


@contextmanager
def quiet_loading() -> Iterator[None]:
    # A library shows no progress bars of its own accord; the caller's choice is put back afterwards.
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


@torch.no_grad()
def _logits_are_head_of_hidden(model: Any, device: torch.device) -> bool:
    # Soft caps, logit scales and multipliers differ by architecture and come with every release, so a list of names
    # would go stale. One forward pass of four tokens settles it.
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids = torch.arange(4, device=device)[None] % model.config.get_text_config().vocab_size
    logits = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden.shape[-1] == getattr(head, "in_features", None) and torch.allclose(head(hidden), logits)
