"""The two factors of one module's update, and what may be done to them without changing it.

In: `lora_a` (r, d_in) and `lora_b` (d_out, r), scaling already folded into `lora_b`; the update is
`delta = lora_b @ lora_a`. Out: the same delta balanced or padded. Refused: values that are not finite, and products
that float32 cannot hold.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.errors import AdapterError, ConfigError
from tclora.shapes import Float

__all__ = ["LoraFactors", "all_finite", "balance_factors", "check_finite", "pad_rank"]

_FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """One module's update, `delta = lora_b @ lora_a`, with the scaling folded into `lora_b`."""

    lora_a: Float[Tensor, "r d_in"]
    lora_b: Float[Tensor, "d_out r"]

    def delta(self) -> Float[Tensor, "d_out d_in"]:
        """The update as one dense float64 matrix, for tests and small models."""
        return self.lora_b.double() @ self.lora_a.double()


def check_finite(
    factors: LoraFactors, *, where: object, names: tuple[str, str] = ("lora_a", "lora_b"), scale: float = 1.0
) -> None:
    """Refuse factors that hold NaN or infinity, or whose product can leave the range of float32.

    Args:
        names: what to call `lora_a` and `lora_b` in the message: their tensor names where they have them.
        scale: what `lora_b` is yet to be multiplied by.

    Raises:
        AdapterError: names `where`, the tensor, and the first bad position.
    """
    if _surely_fine(factors, scale):
        return
    # A reduction by max passes NaN on, so one number per rank says whether all are finite.
    peak_a, peak_b = factors.lora_a.abs().amax(dim=1).double(), factors.lora_b.abs().amax(dim=0).double()
    for tensor, peak, name in ((factors.lora_a, peak_a, names[0]), (factors.lora_b, peak_b, names[1])):
        if not bool(torch.isfinite(peak).all()):
            raise _not_finite(tensor, name, where)
    # |delta| <= sum over the rank of the two peaks: no (d_out, d_in) array is needed to bound the product.
    bound = max(float(peak_a @ peak_b), float(peak_b.max())) * abs(scale)
    if not bound <= _FLOAT32_MAX:
        raise AdapterError(
            f"the product of {names[1]} and {names[0]} overflows float32",
            where=where,
            found=f"finite values whose scaled product can reach {bound:.3g}",
            expected=f"a delta below {_FLOAT32_MAX:.3g}",
            do="this adapter is damaged or did not converge; train it again or leave it out",
        )


def _surely_fine(factors: LoraFactors, scale: float) -> bool:
    """Whether two extremes of each factor settle it already; NaN and infinity fail every comparison."""
    peaks = [max(abs(float(end)) for end in torch.aminmax(tensor)) for tensor in (factors.lora_a, factors.lora_b)]
    bound = max(peaks[0] * factors.lora_a.shape[0], 1.0) * peaks[1] * abs(scale)
    return peaks[0] <= _FLOAT32_MAX and bound <= _FLOAT32_MAX


def balance_factors(factors: LoraFactors) -> LoraFactors:
    """Scale each column of `lora_b` and its row of `lora_a` to equal norms, leaving the delta as it is.

    Half precision then loses least of either factor. A column or row of zeros makes its partner irrelevant, and
    both become zero.
    """
    norm_a, norm_b = _norms(factors.lora_a, 1), _norms(factors.lora_b, 0)
    live = (norm_a > 0) & (norm_b > 0)
    # The ratio of two square roots cannot overflow where the square root of the ratio could.
    to_b = torch.where(live, norm_a.sqrt() / norm_b.sqrt().where(live, 1.0), 0.0)
    to_a = torch.where(live, norm_b.sqrt() / norm_a.sqrt().where(live, 1.0), 0.0)
    if max(float(to_a.max()), float(to_b.max())) > _FLOAT32_MAX:
        return LoraFactors(
            (factors.lora_a.double() * to_a[:, None]).to(factors.lora_a.dtype),
            (factors.lora_b.double() * to_b).to(factors.lora_b.dtype),
        )
    dtype = factors.lora_a.dtype
    return LoraFactors(factors.lora_a * to_a.to(dtype)[:, None], factors.lora_b * to_b.to(dtype))


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite, from the two extremes: NaN passes through a minimum and a maximum."""
    low, high = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(()), torch.zeros(()))
    return math.isfinite(float(low)) and math.isfinite(float(high))


def _norms(factor: Tensor, dim: int) -> Tensor:
    """Norms in float64, taken in the factor's own precision where its squares neither vanish nor overflow there."""
    norms = torch.linalg.vector_norm(factor, dim=dim)
    if bool(((norms > 1e-15) & torch.isfinite(norms)).all()):
        return norms.double()
    return torch.linalg.vector_norm(factor, dim=dim, dtype=torch.float64)


def pad_rank(factors: LoraFactors, rank: int) -> LoraFactors:
    """Add zero rows and columns up to `rank`; the delta is the same.

    Raises:
        ConfigError: `rank` is below that of the factors, which padding cannot reach.
    """
    r = factors.lora_a.shape[0]
    if rank < r:
        raise ConfigError(
            "the rank asked for is below that of the update",
            found=f"rank {rank}",
            expected=f"at least {r}",
            do="ask for a larger rank, or truncate the update before writing it",
        )
    if rank == r:
        return factors
    lora_a = torch.nn.functional.pad(factors.lora_a, (0, 0, 0, rank - r))
    return LoraFactors(lora_a, torch.nn.functional.pad(factors.lora_b, (0, rank - r)))


def _not_finite(tensor: Tensor, name: str, where: object) -> AdapterError:
    row, column = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    count = int((~torch.isfinite(tensor)).sum())
    return AdapterError(
        f"{name} holds values that are not finite",
        where=where,
        found=f"{tensor[row, column].item()} at [{row}, {column}]; {count} of {tensor.numel()} values are not finite",
        expected="finite numbers",
        do="this adapter is damaged or did not converge; train it again or leave it out",
    )
