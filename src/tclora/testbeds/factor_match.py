"""How well the terms of a fitted CP model are those that were planted: the factor match score.

In: two sets of rank-one terms. Out: a number up to 1 at which every planted term was found. The order of terms is free,
so they are paired as suits best; sizes are free, and signs may change in two modes at once. Refused: sides of unequal
length.

Source: Tomasi and Bro 2006, Computational Statistics and Data Analysis 50, 1700-1734 (congruence of a term: the product
of its cosines); the pairing is Kuhn's and Munkres' in the shortest-path form of Jonker and Volgenant 1987.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tclora.errors import ShapeError
from tclora.shapes import Float

__all__ = ["best_pairs", "factor_match"]

Modes = Sequence[Float[Tensor, "_ _"]]


def factor_match(fitted: Modes, planted: Modes) -> float:
    """The mean over planted terms of the congruence with the fitted term that it is paired with.

    The congruence is the product over the modes of the cosines of the two columns. A planted term that has no partner,
    since the model has fewer terms, counts as 0; a column of zeros has cosine 0. Terms beyond those planted cost
    nothing.

    Args:
        fitted: one matrix per mode, terms as columns.
        planted: the same modes.

    Raises:
        ShapeError: the two have other modes, or a mode has another length.
    """
    sizes = [[mode.shape[0] for mode in modes] for modes in (fitted, planted)]
    if sizes[0] != sizes[1]:
        raise ShapeError("fitted and planted terms have other modes", found=sizes[0], expected=sizes[1])
    product = torch.ones(planted[0].shape[1], fitted[0].shape[1], dtype=torch.float64)
    for mode, true in zip(fitted, planted, strict=True):
        product *= _unit(true).mT @ _unit(mode)
    pairs = best_pairs(product.numpy())
    return float(sum(product[row, column] for row, column in pairs) / planted[0].shape[1])


def best_pairs(score: Float[np.ndarray, "rows columns"]) -> list[tuple[int, int]]:
    """Pair rows with columns, each at most once, so that the sum of the scores is largest; all of the shorter side."""
    if score.shape[0] > score.shape[1]:
        return sorted((row, column) for column, row in best_pairs(score.T))
    n_rows, n_columns = score.shape
    # Potentials of rows and columns, and the row that each column has; index 0 stands for none.
    u, v, owner = np.zeros(n_rows + 1), np.zeros(n_columns + 1), np.zeros(n_columns + 1, dtype=np.int64)
    for row in range(1, n_rows + 1):
        owner[0] = row
        column, way = _shortest_path(-score, u, v, owner)
        while column:
            owner[column] = owner[way[column]]
            column = int(way[column])
    return sorted((int(owner[column]) - 1, column - 1) for column in range(1, n_columns + 1) if owner[column])


def _shortest_path(cost: np.ndarray, u: np.ndarray, v: np.ndarray, owner: np.ndarray) -> tuple[int, np.ndarray]:
    """Extend the pairing by the row in `owner[0]`; changes the potentials. Returns the free column and the way."""
    least, seen = np.full(len(v), np.inf), np.zeros(len(v), dtype=bool)
    way, column = np.zeros(len(v), dtype=np.int64), 0
    while owner[column]:
        seen[column] = True
        row, open_columns = owner[column], np.flatnonzero(~seen[1:]) + 1
        reduced = cost[row - 1, open_columns - 1] - u[row] - v[open_columns]
        nearer = reduced < least[open_columns]
        least[open_columns[nearer]], way[open_columns[nearer]] = reduced[nearer], column
        following = int(open_columns[np.argmin(least[open_columns])])
        step = least[following]
        u[owner[seen]] += step
        v[seen] -= step
        least[~seen] -= step
        column = following
    return column, way


def _unit(columns: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(columns.double(), dim=0)
    return columns.double() / torch.where(norms > 0, norms, 1)
