"""What one adapter's modules read: the statistics of inputs that regression mean merging needs.

In: rows of inputs, pass by pass. Out: for each site a factor `R` with `R.T @ R` the mean of `x x.T` over the tokens, in
float32 and of at most `min(tokens, d_in)` rows; for an embedding, which reads one token at a time, the share of each
token of the vocabulary. No matrix of size d_in by d_in is kept, and rows are reduced by QR, which keeps their digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.errors import ConfigError
from tclora.shapes import Float

__all__ = ["AdapterStatistics", "InputRows"]


@dataclass(frozen=True, eq=False)
class AdapterStatistics:
    """The inputs of every module while one adapter was at work.

    `sites` says where a module's inputs are kept, as modules that read the same tensor share it; `factors[site]` is
    (rows, d_in), or (vocabulary,) for an embedding.
    """

    sites: Mapping[str, str]
    factors: Mapping[str, Tensor]
    n_tokens: int

    def of(self, module: str) -> Tensor:
        """The factor of a module.

        Raises:
            ConfigError: the module was not there when the statistics were taken.
        """
        if module not in self.sites:
            raise ConfigError(
                "there are no statistics of the inputs of a module",
                where=module,
                found=f"statistics of {len(self.sites)} modules",
                expected="statistics taken with these very adapters",
                do="learn again, with --base and --examples",
            )
        return self.factors[self.sites[module]]


class InputRows:
    """Adds up the inputs of one site."""

    def __init__(self, width: int):
        self.width = width
        self.kept: list[Tensor] = []
        self.counts = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take the rows of one pass: (n_tokens, d_in), or token ids (n_tokens,)."""
        if rows.ndim == 1:
            if not len(self.counts):
                self.counts = torch.zeros(self.width, dtype=torch.float64)
            self.counts += torch.bincount(rows.cpu(), minlength=self.width)
            return
        self.kept.append(rows.float().cpu())
        # Reduced at twice the width: each QR then takes in at least as many new rows as it carries old ones.
        if sum(map(len, self.kept)) >= 2 * self.width:
            self.kept = [_reduced(torch.cat(self.kept))]

    def factor(self, n_tokens: int) -> Float[Tensor, "..."]:
        """The factor of all rows taken so far."""
        if len(self.counts):
            return (self.counts / n_tokens).float()
        rows = torch.cat(self.kept)
        rows = _reduced(rows) if len(rows) > self.width else rows
        return (rows.double() / n_tokens**0.5).float().contiguous()


def _reduced(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "kept d_in"]:
    return torch.linalg.qr(rows.double(), mode="r")[1].float()
