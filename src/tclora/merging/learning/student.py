"""A merged adapter of which some numbers may change.

In: an adapter to start from. Out: a `Student`, an ordinary adapter of the same ranks at any moment. Free are either one
number per term and module, a term being a column of `lora_b` with its row of `lora_a`, or every entry of the factors.
Sizes of steps are relative to what moves, so that no setting depends on the units of an adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from tclora.adapters import Adapter, LoraFactors
from tclora.shapes import Float

__all__ = ["Refit", "Student", "make_student"]

Refit = Literal["terms", "factors"]


@dataclass(frozen=True, eq=False)
class Student:
    """Factors on the base's device, by module, and the tensors in them that are free. `start` has names and shapes."""

    start: Adapter
    downs: Mapping[str, Float[Tensor, "R d_in"]]
    ups: Mapping[str, Float[Tensor, "d_out R"]]
    sizes: Mapping[str, Float[Tensor, " R"]]
    free: tuple[Tensor, ...]

    def adapter(self) -> Adapter:
        """The student as it is now; a gradient reaches the free tensors."""
        modules = {name: LoraFactors(self.downs[name], self.ups[name] * self.sizes[name]) for name in self.downs}
        return replace(self.start, modules=MappingProxyType(modules))

    def groups(self, lr: float) -> list[dict[str, object]]:
        """Adam's groups: each free tensor moves by `lr` times the root mean square of its entries."""
        return [{"params": [one], "lr": lr * float(one.detach().square().mean().sqrt())} for one in self.free]

    @torch.no_grad()
    def stretch(self, factor: float) -> None:
        """Multiply the update by a positive number, evenly on all that is free."""
        for name in self.downs:
            if self.sizes[name].requires_grad:
                self.sizes[name].mul_(factor)
            else:
                self.downs[name].mul_(factor**0.5)
                self.ups[name].mul_(factor**0.5)

    def copy(self) -> list[Tensor]:
        """The free numbers, kept."""
        return [one.detach().clone() for one in self.free]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        """Put kept numbers back."""
        for one, value in zip(self.free, kept, strict=True):
            one.copy_(value)

    def factors(self) -> dict[str, LoraFactors]:
        """What is learned: the factors of each module in float32, on the CPU."""
        return {
            name: LoraFactors(
                lora_a=factors.lora_a.detach().float().cpu().contiguous(),
                lora_b=factors.lora_b.detach().float().cpu().contiguous(),
            )
            for name, factors in self.adapter().modules.items()
        }


def make_student(start: Adapter, refit: Refit, device: torch.device) -> Student:
    """A student that is `start` until it is moved."""
    downs, ups, sizes = {}, {}, {}
    for name, factors in start.modules.items():
        down, up = (side.to(device, torch.float32).clone() for side in (factors.lora_a, factors.lora_b))
        size = torch.ones(len(down), device=device)
        if refit == "terms":
            # Unit directions: a term that is small in the mean can then grow as fast as any other.
            lengths = [torch.linalg.vector_norm(down, dim=1), torch.linalg.vector_norm(up, dim=0)]
            down, up = down / _safe(lengths[0])[:, None], up / _safe(lengths[1])
            size = lengths[0] * lengths[1]
        downs[name], ups[name], sizes[name] = down, up, size
    moved = [sizes] if refit == "terms" else [downs, ups]
    free = tuple(side[name].requires_grad_(True) for name in start.modules for side in moved)
    return Student(start, downs, ups, sizes, free)


def _safe(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, torch.ones_like(lengths))
