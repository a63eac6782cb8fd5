"""Several LoRA adapters on one frozen linear layer: the base multiplies once, each adapter its own tokens.

In: a module of the base and, for the pass that runs, which adapter owns which rows of its flattened input. Out: the
module's output with `x_seg @ lora_a_i.T @ lora_b_i.T * scaling_i` added to every segment, differentiable in x and in
the factors; the frozen weight gets no gradient. Segments are looped over: on a CPU that beat one padded bmm by a
tenth and one product of all factors side by side by half. Dropout masks are drawn from (adapter, step, chunk, module)
and drawn again in the backward pass, so they take no memory and do not depend on who shares the pass. Refused: a
module that sees other than the rows announced.

Source: Hu et al. 2021, arXiv 2106.09685; many adapters on one base product as in Chen et al. 2023, arXiv 2310.18547.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tclora.errors import ShapeError

__all__ = ["GroupedLora", "ModuleLora", "Span", "kept_inputs"]

_LEVELS = 1 << 16
"""A mask compares 16 random bits with the dropout rate, which is so rounded to 1 / 65,536."""


@dataclass(frozen=True)
class Span:
    """Rows `start` to `end` of a flattened input belong to one adapter."""

    member: int
    start: int
    end: int
    key: tuple[int, ...] | None = None
    """What dropout is drawn from; None: no dropout."""


@dataclass(frozen=True)
class ModuleLora:
    """One adapter's share of one module: lora_a (r, d_in), lora_b (d_out, r)."""

    lora_a: torch.nn.Parameter
    lora_b: torch.nn.Parameter
    scaling: float
    dropout: float


class GroupedLora:
    """Puts adapters on modules of a model; between `passing` blocks the model is the base itself."""

    def __init__(self, model: Any, adapters: Mapping[int, Mapping[str, ModuleLora]]):
        paths = {path: index for index, (path, _) in enumerate(model.named_modules())}
        names = sorted({name for modules in adapters.values() for name in modules}, key=paths.__getitem__)
        self._spans: Mapping[int, Sequence[Span]] = {}
        self._whole: Span | None = None
        self._sites = [
            _Site(
                self,
                name,
                paths[name],
                model.get_submodule(name),
                {member: modules[name] for member, modules in adapters.items() if name in modules},
            )
            for name in names
        ]

    @contextmanager
    def installed(self) -> Iterator["GroupedLora"]:
        """The modules go through this object inside the block and are what they were after it."""
        for site in self._sites:
            site.module.forward = site.forward
        try:
            yield self
        finally:
            for site in self._sites:
                del site.module.forward

    @contextmanager
    def passing(self, *spans: Sequence[Span]) -> Iterator[None]:
        """A pass whose modules see as many rows as one of `spans` covers: all tokens, or the scored ones."""
        self._spans = {cover[-1].end: cover for cover in spans}
        try:
            yield
        finally:
            self._spans = {}

    @contextmanager
    def alone(self, member: int) -> Iterator[None]:
        """All rows of every pass belong to one adapter, without dropout: for scoring."""
        self._whole = Span(member, 0, 0)
        try:
            yield
        finally:
            self._whole = None

    def spans_of(self, name: str, n_rows: int) -> Sequence[Span]:
        """Who owns the rows that a module sees.

        Raises:
            ShapeError: the module sees another number of rows than the pass has tokens.
        """
        if self._whole is not None:
            return (Span(self._whole.member, 0, n_rows),)
        if self._spans and n_rows not in self._spans:
            raise ShapeError(
                "a module does not see one vector per token",
                where=name,
                found=f"{n_rows} rows",
                expected=" or ".join(map(str, self._spans)),
                do="set train.trainer to plain",
            )
        return self._spans.get(n_rows, ())


class _Site:
    """One module with the adapters on it."""

    def __init__(self, owner: GroupedLora, name: str, index: int, module: Any, adapters: Mapping[int, ModuleLora]):
        self.owner, self.name, self.index, self.module, self.adapters = owner, name, index, module, adapters
        self.transposed = not isinstance(module, torch.nn.Linear)  # GPT-2's Conv1D keeps (d_in, d_out)

    def forward(self, x: Tensor) -> Tensor:
        spans = self.owner.spans_of(self.name, x.shape[:-1].numel())
        shares = [
            _Share(span, self.adapters[span.member], self.index) for span in spans if span.member in self.adapters
        ]
        weight = self.module.weight.t() if self.transposed else self.module.weight
        kind, autocast = x.device.type, torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(kind) if autocast else weight.dtype
        # Without autocast PEFT multiplies the factors in their own float32, whatever the dtype of the base.
        dtypes = (dtype, dtype if autocast else torch.promote_types(dtype, torch.float32))
        factors = [factor for share in shares for factor in (share.lora.lora_a, share.lora.lora_b)]
        with torch.autocast(kind, enabled=False):
            return _Grouped.apply(x, weight, self.module.bias, (shares, *dtypes), *factors)


@dataclass(frozen=True)
class _Share:
    span: Span
    lora: ModuleLora
    site: int

    def rows(self, x: Tensor) -> Tensor:
        return x[self.span.start : self.span.end]

    @property
    def drops(self) -> bool:
        return self.span.key is not None and self.lora.dropout > 0

    @property
    def scale(self) -> float:
        """LoRA's scaling, and with it the 1 / (1 - rate) of dropout."""
        return self.lora.scaling / (1 - _n_dropped(self.lora.dropout) / _LEVELS) if self.drops else self.lora.scaling

    def kept(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """1 where dropout keeps the segment of `x`, 0 elsewhere; None where it keeps all."""
        if not self.drops or self.span.key is None:
            return None
        shape = (self.span.end - self.span.start, x.shape[1])
        return kept_inputs(shape, self.lora.dropout, (*self.span.key, self.site), x.device).to(dtype)


class _Grouped(torch.autograd.Function):
    """`linear(x, weight, bias)` plus the segments' updates, with one gradient buffer for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Any, *factors: Tensor) -> Tensor:
        shares, dtype, lora_dtype = plan
        flat = x.reshape(-1, x.shape[-1])
        out = torch.nn.functional.linear(flat.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        hidden = []
        for share, lora_a, lora_b in zip(shares, factors[::2], factors[1::2], strict=True):
            rows = _times(share.rows(flat).to(lora_dtype), share.kept(flat, lora_dtype))
            hidden.append(rows @ lora_a.to(lora_dtype).t())
            _add_product(share.rows(out), hidden[-1], lora_b.to(lora_dtype).t(), share.scale)
        ctx.save_for_backward(x, weight, *hidden, *factors)
        ctx.plan = plan
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        shares, dtype, lora_dtype = ctx.plan
        x, weight, *rest = ctx.saved_tensors
        hidden, factors = rest[: len(shares)], rest[len(shares) :]
        grad, flat = grads[0].reshape(-1, grads[0].shape[-1]), x.reshape(-1, x.shape[-1])
        into_x = grad @ weight.to(dtype) if ctx.needs_input_grad[0] else None
        into_factors = []
        for share, reduced, lora_a, lora_b in zip(shares, hidden, factors[::2], factors[1::2], strict=True):
            rows, kept = share.rows(grad).to(lora_dtype), share.kept(flat, lora_dtype)
            upper = (rows @ lora_b.to(lora_dtype)).mul_(share.scale)
            into_factors.append((upper.t() @ _times(share.rows(flat).to(lora_dtype), kept)).to(lora_a.dtype))
            into_factors.append((rows.t() @ reduced).mul_(share.scale).to(lora_b.dtype))
            if into_x is not None and kept is None:
                _add_product(share.rows(into_x), upper, lora_a.to(lora_dtype), 1.0)
            elif into_x is not None:
                share.rows(into_x).add_((upper @ lora_a.to(lora_dtype)).mul_(kept))
        back = None if into_x is None else into_x.view(x.shape).to(x.dtype)
        return back, None, None, None, *into_factors


def _times(rows: Tensor, kept: Tensor | None) -> Tensor:
    return rows if kept is None else rows * kept


def _add_product(out: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    if out.dtype == left.dtype:
        out.addmm_(left, right, alpha=scale)
    else:
        out.add_(left @ right, alpha=scale)


def _n_dropped(rate: float) -> int:
    return round(rate * _LEVELS)


def kept_inputs(shape: tuple[int, int], rate: float, key: tuple[int, ...], device: torch.device) -> Tensor:
    """1.0 where dropout keeps a value, 0.0 elsewhere: the same for the same key on the same kind of device."""
    n_dropped, count = _n_dropped(rate), shape[0] * shape[1]
    if device.type == "cpu":
        # Raw bits of a generator made for the key: ten times as fast as torch's bernoulli_.
        bits = np.random.SFC64(list(key)).random_raw((count + 3) // 4).view(np.int16)
        # Written as floats at once, which is five times as fast as a mask of bools that is then converted.
        return torch.ge(torch.from_numpy(bits)[:count].view(shape), n_dropped - _LEVELS // 2, out=torch.empty(shape))
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1))
    return (torch.rand(shape, generator=generator, device=device) >= n_dropped / _LEVELS).float()
