"""The base with the adapters of a group on it, as one thing to run passes through.

In: a base and adapters. Out: the losses of a pass, or of one adapter's dev rows. Whether rows can be packed, and
whether this base can be shared at all, is found by trying: two random adapters on three rows, together and apart, at
the length of the longest row. So no list of architectures has to be kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tclora.models import Base
from tclora.shapes import Float
from tclora.training.grouped_lora import GroupedLora, ModuleLora, Span
from tclora.training.packed_attention import PackedAttention
from tclora.training.packing import PassTensors

__all__ = ["SharedBase", "layout_of"]

_MAX_LOGITS = 2**27
"""Logits held at once for the backward pass: 512 MiB in float32; beyond, they are computed again there."""
_ALIKE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference of a trial pass, relative to the largest output: rounding lies two orders below, a token that
attends to a stranger or gets another's adapter some orders above. Half precision rounds to 1e-2."""
_TRIAL_SCALE = 0.3


class SharedBase:
    """A base, a `GroupedLora` on it, and its packed attention."""

    def __init__(self, base: Base, adapters: Mapping[int, Mapping[str, ModuleLora]]):
        self.base = base
        self.lora = GroupedLora(base.model, adapters)
        self._attention = PackedAttention(base.model)
        head = base.model.get_output_embeddings()
        self._split = base.split_head
        self._adapted_head = any(base.model.get_submodule(path) is head for one in adapters.values() for path in one)

    @contextmanager
    def installed(self) -> Iterator["SharedBase"]:
        """The base runs through this object inside the block, and is what it was after it."""
        with self._attention.installed(), self.lora.installed():
            yield self

    @contextmanager
    def running(self, tensors: PassTensors) -> Iterator[None]:
        """Forward and backward of one pass both happen inside the block: layers may be recomputed."""
        with self.lora.passing(tensors.scored_spans, tensors.spans), self._attention.over(tensors.lengths):
            yield

    def token_losses(self, tensors: PassTensors) -> Float[Tensor, " n_scored"]:
        """Cross-entropy of each response token in nats and float32; differentiable in the factors."""
        outputs = self.outputs(tensors)[tensors.scored]
        if not self._split:
            return _cross_entropy(outputs, tensors.targets)
        head = self.base.model.get_output_embeddings()
        step = max(1, _MAX_LOGITS // self.base.model.config.get_text_config().vocab_size)
        if self._adapted_head or len(outputs) <= step:
            return _cross_entropy(head(outputs), tensors.targets)
        pairs = zip(outputs.split(step), tensors.targets.split(step), strict=True)
        return torch.cat([_recomputed(head, *pair) for pair in pairs])

    def outputs(self, tensors: PassTensors) -> Float[Tensor, "rows length d_out"]:
        """Last hidden states, or logits where the model makes them in its own way."""
        positions = {} if tensors.positions is None else {"position_ids": tensors.positions}
        if self._split:
            return self.base.model.base_model(input_ids=tensors.ids, use_cache=False, **positions).last_hidden_state
        return self.base.model(input_ids=tensors.ids, use_cache=False, **positions).logits


def layout_of(base: Base, modules: Sequence[str], longest: int) -> tuple[bool, str | None]:
    """Whether passes over this base can be packed, and why they cannot be shared at all.

    Args:
        modules: the modules that adapters are on.
        longest: tokens of the longest row.
    """
    shared = SharedBase(base, {member: _random_adapter(base, modules, member) for member in (0, 1)})
    if len(base.model.get_submodule(modules[0]).weight.shape) != 2:
        return False, f"{modules[0]} is no matrix"
    with shared.installed():
        if _trial(shared, longest, packed=True) is None:
            return True, None
        return False, _trial(shared, longest, packed=False)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _recomputed(head: Any, hidden: Tensor, targets: Tensor) -> Any:
    from torch.utils.checkpoint import checkpoint

    return checkpoint(lambda part: _cross_entropy(head(part), targets), hidden, use_reentrant=False)


def _random_adapter(base: Base, modules: Sequence[str], seed: int) -> dict[str, ModuleLora]:
    generator, adapter = torch.Generator().manual_seed(seed), {}
    for path in modules:
        module = base.model.get_submodule(path)
        shape = module.weight.shape
        d_out, d_in = shape if isinstance(module, torch.nn.Linear) else (shape[1], shape[0])
        sides = ((1, d_in), (d_out, 1))
        lora_a, lora_b = (torch.randn(side, generator=generator).to(module.weight.device) for side in sides)
        parts = (torch.nn.Parameter(side, requires_grad=False) for side in (lora_a / d_in**0.5, lora_b * _TRIAL_SCALE))
        adapter[path] = ModuleLora(*parts, scaling=1.0, dropout=0.0)
    return adapter


@torch.no_grad()
def _trial(shared: SharedBase, longest: int, *, packed: bool) -> str | None:
    """Why two adapters in one pass do not give what each gives alone; None if they do."""
    generator = torch.Generator().manual_seed(0)
    n_words = shared.base.model.config.get_text_config().vocab_size
    lengths = (longest, min(5, longest), min(3, longest))
    rows = [torch.randint(n_words, (length,), generator=generator) for length in lengths]
    try:
        together = _rows_of(shared, rows, packed)
        for row, member, output in zip(rows, (0, 1, 1), together, strict=True):
            with shared.lora.alone(member):
                alone = shared.outputs(_tensors([row], packed=False, device=shared.base.device))[0]
            bound = _ALIKE.get(alone.dtype, 0.1) * alone.abs().max()
            if not (output - alone).abs().max() <= bound:
                return "two adapters in one pass do not give what each gives alone"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model may stumble in any way over what it was not made for
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _rows_of(shared: SharedBase, rows: list[Tensor], packed: bool) -> list[Tensor]:
    tensors = _tensors(rows, packed=packed, device=shared.base.device)
    with shared.running(tensors):
        outputs = shared.outputs(tensors)
    if packed:
        return list(outputs[0].split([len(row) for row in rows]))
    return [output[: len(row)] for output, row in zip(outputs, rows, strict=True)]


def _tensors(rows: list[Tensor], *, packed: bool, device: torch.device) -> PassTensors:
    """The rows as a pass of two adapters: the first row of the one, the others of the other."""
    lengths = [len(row) for row in rows]
    ids = torch.cat(rows)[None] if packed else torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    first = lengths[0] if packed else ids.shape[1]
    spans = (Span(0, 0, first), Span(1, first, ids.numel()))
    return PassTensors(
        ids=ids.to(device),
        positions=torch.cat([torch.arange(length) for length in lengths])[None].to(device) if packed else None,
        scored=torch.zeros(ids.shape, dtype=torch.bool, device=device),
        targets=torch.zeros(0, dtype=torch.long, device=device),
        loss_weights=torch.zeros(0, device=device),
        lengths=tuple(lengths) if packed else None,
        spans=spans,
        scored_spans=spans,
    )
