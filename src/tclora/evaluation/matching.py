"""Exact match of a generated answer: the rule for equality, and which examples are asked.

In: texts; keys and clusters of examples. Out: booleans; indices. There is one rule and no per-task exception.
"""

import hashlib
from collections.abc import Sequence

__all__ = ["choose_examples", "is_exact_match", "normalize_answer"]


def normalize_answer(text: str) -> str:
    """Bring an answer to the form in which answers are compared.

    In this order: runs of white space become one space, the ends are stripped, one period at the end is removed
    (and the space before it), and case is folded. Articles, other punctuation and accents stay.
    """
    collapsed = " ".join(text.split())
    return collapsed.removesuffix(".").rstrip().casefold()


def is_exact_match(answer: str, expected: str) -> bool:
    """Say whether a generated answer equals the expected one after `normalize_answer`."""
    return normalize_answer(answer) == normalize_answer(expected)


def choose_examples(
    keys: Sequence[str], clusters: Sequence[int], max_per_cluster: int | None, *, seed: int
) -> list[int]:
    """Choose at most `max_per_cluster` examples of each cluster, by a hash of seed and key.

    The choice depends on the examples and not on their order, so files given in another order ask the same ones.

    Returns:
        Indices into `keys`, ascending.
    """
    if max_per_cluster is None:
        return list(range(len(keys)))
    by_hash = sorted(range(len(keys)), key=lambda i: (hashlib.sha256(f"{seed}:{keys[i]}".encode()).digest(), i))
    taken: dict[int, int] = {}
    chosen = []
    for i in by_hash:
        taken[clusters[i]] = taken.get(clusters[i], 0) + 1
        if taken[clusters[i]] <= max_per_cluster:
            chosen.append(i)
    return sorted(chosen)
