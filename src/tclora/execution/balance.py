"""Split jobs into groups of nearly equal cost.

In: one cost for each job. Out: groups of indices, by the longest-processing-time rule, whose largest group costs at
most 4/3 of the least possible (Graham 1969, SIAM J. Appl. Math. 17). Equal inputs give equal groups. Refused: nothing.
"""

from collections.abc import Sequence

__all__ = ["balanced_groups"]


def balanced_groups(costs: Sequence[float], n_groups: int) -> tuple[tuple[int, ...], ...]:
    """Put each index into one of at most `n_groups` groups; none is empty, and indices ascend within a group.

    Groups come in the order of their first index.
    """
    groups: list[list[int]] = [[] for _ in range(max(1, min(n_groups, len(costs))))]
    loads = [0.0] * len(groups)
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        # Among equally loaded groups the one with fewer jobs: jobs of no known cost spread out too.
        least = min(range(len(groups)), key=lambda group: (loads[group], len(groups[group]), group))
        groups[least].append(index)
        loads[least] += costs[index]
    return tuple(sorted(tuple(sorted(group)) for group in groups if group))
