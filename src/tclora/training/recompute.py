"""Gradient checkpointing: a layer's inputs are kept and its inside is computed again in the backward pass.

In: a transformers model. Out: the same, recomputing for the length of a block; losses and gradients are the same.
Refused: models that cannot. Source: Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tclora.errors import ConfigError

__all__ = ["recomputing"]


@contextmanager
def recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Checkpoint the model's layers inside the block, if it is wanted.

    Transformers recomputes only what is in training mode. Only the flag of the layers themselves is set, so that the
    dropout of a base that is in evaluation mode stays off.

    Raises:
        ConfigError: the model has no gradient checkpointing.
    """
    if not wanted:
        yield
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError(
            "the base model has no gradient checkpointing",
            where="train.gradient_checkpointing",
            found=type(model).__name__,
            expected="a model that supports it",
            do="set it to false and lower micro_batch_size",
        )
    before = [(module, set(vars(module)), module.training) for module in model.modules()]
    _enable(model)
    # Only re-entrant checkpoints need embeddings with a gradient; here they would cost the first layer's backward pass.
    model.disable_input_require_grads()
    for module, _, _ in before:
        module.training = module.training or bool(getattr(module, "gradient_checkpointing", False))
    try:
        yield
    finally:
        _disable(model)
        for module, names, was_training in before:
            module.training = was_training
            for name in set(vars(module)) - names:
                delattr(module, name)


def _enable(model: Any) -> None:
    if hasattr(model, "activation_checkpointing_enable"):  # the name from transformers 5.23 on
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _disable(model: Any) -> None:
    if hasattr(model, "activation_checkpointing_disable"):
        model.activation_checkpointing_disable()
    else:
        model.gradient_checkpointing_disable()
