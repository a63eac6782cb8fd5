"""How far a merged adapter is from a known truth, as it stands and at the scale that suits it best.

In: two adapters with the same modules. Out: a `Recovery`, over all modules as one vector, in float64 from the deltas
themselves: a difference of norms would lose what little error an exact method leaves. Refused: other modules, other
shapes, a truth of zeros.
"""

from dataclasses import dataclass

from tclora.adapters import Adapter
from tclora.errors import AdapterMismatchError

__all__ = ["Recovery", "recovery"]


@dataclass(frozen=True)
class Recovery:
    """`error` is the Frobenius norm of the difference over that of the truth; `best_error` the same at `best_scale`.

    A merge of zeros has error 1 at any scale. `best_error` is the sine of the angle between the two, 1 at most.
    """

    error: float
    best_scale: float
    best_error: float


def recovery(merged: Adapter, truth: Adapter) -> Recovery:
    """Compare the deltas of a merge with a truth.

    Raises:
        AdapterMismatchError: the modules or their shapes differ, or the truth is zero.
    """
    _check(merged, truth)
    inner = size = whole = lost = 0.0
    pairs = []
    for path in truth.shapes:
        found, true = (x.lora_b.double() @ x.lora_a.double() for x in (merged.modules[path], truth.modules[path]))
        pairs.append((found, true))
        inner += float((found * true).sum())
        size += float(found.square().sum())
        whole += float(true.square().sum())
        lost += float((found - true).square().sum())
    if whole == 0:
        raise AdapterMismatchError("there is nothing to recover", where=truth.name, found="a truth of zeros")
    scale = inner / size if size > 0 else 0.0
    rest = sum(float((scale * found - true).square().sum()) for found, true in pairs)
    return Recovery((lost / whole) ** 0.5, scale, (rest / whole) ** 0.5)


def _check(merged: Adapter, truth: Adapter) -> None:
    shapes = [{path: (s.d_out, s.d_in) for path, s in one.shapes.items()} for one in (merged, truth)]
    if shapes[0] != shapes[1]:
        raise AdapterMismatchError(
            "a merge and its truth hold different modules",
            where=f"{merged.name} and {truth.name}",
            found=f"{len(shapes[0])} modules",
            expected=f"the {len(shapes[1])} modules of the truth, each of its shape",
        )
