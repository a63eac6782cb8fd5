"""How the entries that stay become one: the weighted sum, or the elected sign and the mean of those that agree.

In: a tile `(n, rows, cols)` and one weight per adapter. Out: the merged tile `(rows, cols)`.

With `x_i` the entries, `w_i` the weights and `s` the elected sign, `+` where the vote is even:

| convention | vote | merged entry |
|---|---|---|
| `mergekit` | `sum_i w_i x_i` | `sum w_i x_i / sum |w_i|` over `i` with `sign(w_i x_i) = s` |
| `peft` | `sum_i x_i` | `sum w_i x_i / count` over `i` with `sign(x_i) = s` |
| `authors` | `sum_i x_i` | as `peft`, but an even vote takes the sign that most entries of the module elected |

`elect="count"` puts the signs in place of the values in the vote; without `normalize` nothing is divided. With weights
of 1 the three agree but for even votes. The divisor of `mergekit` is ours where weights are negative: the plain sum of
the weights, as published there, can vanish or turn the sign.

Source: Yadav et al. 2023, arXiv 2306.01708; the three implementations of that name.
"""

import torch
from torch import Tensor

from tclora.merging.entries.rule import Election
from tclora.shapes import Float

__all__ = ["elected", "vote", "weighted_sum"]


def weighted_sum(tile: Float[Tensor, "n rows cols"], weights: Float[Tensor, " n"]) -> Float[Tensor, "rows cols"]:
    """`sum_i w_i x_i`, entry by entry."""
    return torch.tensordot(weights, tile, dims=1)


def vote(
    tile: Float[Tensor, "n rows cols"], weights: Float[Tensor, " n"], election: Election
) -> Float[Tensor, "rows cols"]:
    """The vote on the sign of each entry: its sign is the elected one, 0 is even."""
    weighted = election.convention == "mergekit"
    if election.elect == "sum":
        return torch.tensordot(weights, tile, dims=1) if weighted else tile.sum(dim=0)
    signs = tile.sign()
    return torch.tensordot(weights.sign(), signs, dims=1) if weighted else signs.sum(dim=0)


def elected(
    tile: Float[Tensor, "n rows cols"], weights: Float[Tensor, " n"], election: Election, *, even: float = 1.0
) -> Float[Tensor, "rows cols"]:
    """The merged entries by elected sign; an even vote takes the sign of `even`. The tile may be overwritten."""
    weighted = election.convention == "mergekit"
    votes = vote(tile, weights, election)
    sign = torch.where(votes > 0, 1.0, torch.where(votes < 0, -1.0, even)).to(tile.dtype)
    values = tile.mul_(weights[:, None, None]) if weighted else tile
    agreeing = values.mul_(sign).clamp_(min=0)
    total = agreeing.sum(dim=0) if weighted else torch.tensordot(weights, agreeing, dims=1)
    if election.normalize:
        those = agreeing.sign_()
        share = torch.tensordot(weights.abs(), those, dims=1) if weighted else those.sum(dim=0)
        total /= torch.where(share == 0, 1, share)
    return total * sign
