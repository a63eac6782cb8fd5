"""Causal attention over rows laid end to end: each row sees itself alone.

In: a transformers model whose attention goes through `AttentionInterface` (all current decoders). Out: the same model,
for whose passes inside `over` attention runs row by row, so no mask of tokens x tokens is built or multiplied. Models
that do not ask the interface, or ask it for what is not handled here (soft caps, sinks, masks of their own), are told
by a trial pass that differs or raises; see `support`.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tclora.errors import ShapeError
from tclora.shapes import Float

__all__ = ["PackedAttention"]

_numbers = itertools.count()
_IGNORED = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "cache_position"}


class PackedAttention:
    """Registers itself under a name of its own and is the model's attention while a packed pass runs."""

    def __init__(self, model: Any):
        self._name = f"tclora_packed_{next(_numbers)}"
        self._lengths: tuple[int, ...] = ()
        configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
        known = {id(config): config for config in configs if hasattr(config, "_attn_implementation")}
        self._configs = list(known.values())

    @contextmanager
    def installed(self) -> Iterator["PackedAttention"]:
        """Known to transformers inside the block."""
        from transformers import AttentionInterface

        AttentionInterface.register(self._name, self._attend)
        try:
            yield self
        finally:
            AttentionInterface._global_mapping.pop(self._name, None)

    @contextmanager
    def over(self, lengths: tuple[int, ...] | None) -> Iterator[None]:
        """Passes inside the block are rows of these lengths; None leaves the model's own attention."""
        if lengths is None:
            yield
            return
        before = [config._attn_implementation for config in self._configs]
        self._lengths = lengths
        for config in self._configs:
            config._attn_implementation_internal = self._name
        try:
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = name

    def _attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
    ) -> tuple[Tensor, None]:
        window, scale = options.pop("sliding_window", None), options.pop("scaling", None)
        strange = [name for name, option in options.items() if option is not None and name not in _IGNORED]
        if attention_mask is not None or strange or query.shape[2] != sum(self._lengths):
            raise ShapeError("this attention cannot be packed", where=type(module).__name__, found=", ".join(strange))
        pieces = zip(*(part.split(self._lengths, dim=2) for part in (query, key, value)), strict=True)
        rows = [_attend_row(*piece, scale=scale, window=window) for piece in pieces]
        return torch.cat(rows, dim=2).transpose(1, 2), None


def _attend_row(
    query: Float[Tensor, "1 heads length d_head"],
    key: Float[Tensor, "1 kv_heads length d_head"],
    value: Float[Tensor, "1 kv_heads length d_value"],
    *,
    scale: float | None,
    window: int | None,
) -> Float[Tensor, "1 heads length d_value"]:
    length, grouped = query.shape[2], query.shape[1] != key.shape[1]
    mask = None
    if window is not None and length > window:
        ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
        mask = ones.tril().triu(1 - window)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
