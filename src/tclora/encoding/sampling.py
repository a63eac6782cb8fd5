"""Which rows an encoder is fitted on: all of few, a seeded sample of many.

In: how many rows there are and how many are wanted at most. Out: sorted row indices, the same in every process, so that
a stream of texts need be read only once and never held.
"""

import numpy as np

__all__ = ["sample_rows"]


def sample_rows(n_rows: int, limit: int, *, seed: int) -> list[int]:
    """At most `limit` of the indices below `n_rows`, in ascending order, drawn without replacement by `seed`."""
    if n_rows <= limit:
        return list(range(n_rows))
    chosen: list[int] = np.random.default_rng(seed).choice(n_rows, limit, replace=False).tolist()
    return sorted(chosen)
