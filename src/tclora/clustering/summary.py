"""What a person wants to know of a clustering: sizes, telling words, typical instructions, and the tasks inside."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tclora.clustering.kmeans import ClusterModel
from tclora.data import Example, task_groups
from tclora.errors import ShapeError, printable
from tclora.records import ClusterRecord, ClusterSummary
from tclora.shapes import Float, Int

__all__ = ["N_NEAREST", "N_TERMS", "summarize_clusters"]

N_TERMS = 10
N_NEAREST = 3
_LINE = 120
# Words of two letters or more; numbers tell nothing of what a cluster is about.
_WORD = re.compile(r"[^\W\d_][^\W_]{1,39}")


def summarize_clusters(
    model: ClusterModel,
    examples_train: Sequence[Example],
    embeddings_train: Float[np.ndarray, "n_train d_embed"],
    labels_train: Int[np.ndarray, " n_train"],
    labels_dev: Int[np.ndarray, " n_dev"],
) -> ClusterRecord:
    """Describe every cluster.

    The top terms are those that add most to the divergence of the cluster's words from those of all clusters: with `p`
    the share of the cluster's examples that hold a word and `q` that of all examples, the score is `p log(p / q)`. So a
    word as common elsewhere scores zero, without a list of stop words. The nearest are distinct instructions.

    Raises:
        ShapeError: the examples, embeddings and labels are not equally many.
    """
    counts = {"examples": len(examples_train), "embeddings": len(embeddings_train), "labels": len(labels_train)}
    if len(set(counts.values())) > 1:
        raise ShapeError("examples, embeddings and labels do not belong together", found=counts, expected="as many")
    words = [frozenset(_WORD.findall(example.text().lower())) for example in examples_train]
    overall = Counter(word for found in words for word in found)
    groups = task_groups(examples_train)
    clusters = []
    for index in range(len(model.centroids)):
        members = np.flatnonzero(labels_train == index).tolist()
        clusters.append(
            ClusterSummary(
                index=index,
                n_train=len(members),
                n_dev=int((labels_dev == index).sum()),
                n_tokens=sum(_n_words(examples_train[member]) for member in members),
                top_terms=_top_terms([words[member] for member in members], overall, len(words)),
                nearest=_nearest(model.centroids[index], examples_train, embeddings_train, members),
                tasks=_most_frequent(groups[member] for member in members if groups[member]),
            )
        )
    return ClusterRecord(len(clusters), model.sample_size, model.inertia, tuple(clusters))


def _n_words(example: Example) -> int:
    turns = (turn.content for turn in example.history)
    return sum(len(text.split()) for text in (example.instruction, example.input, example.output, *turns))


def _top_terms(members: Sequence[frozenset[str]], overall: Counter[str], n_all: int) -> tuple[str, ...]:
    inside = Counter(word for found in members for word in found)
    scores = {
        word: count / len(members) * np.log(count * n_all / (len(members) * overall[word]))
        for word, count in inside.items()
    }
    # Rounded, so that words of equal counts tie exactly and the alphabet decides.
    ranked = sorted(scores, key=lambda word: (-round(float(scores[word]), 12), word))
    return tuple(word for word in ranked[:N_TERMS] if scores[word] > 1e-12)


def _nearest(
    centroid: Float[np.ndarray, " d_embed"],
    examples: Sequence[Example],
    embeddings: Float[np.ndarray, "n_train d_embed"],
    members: Sequence[int],
) -> tuple[str, ...]:
    distances = ((embeddings[members].astype(np.float64) - centroid) ** 2).sum(axis=1)
    lines: dict[str, None] = {}
    for place in np.argsort(distances, kind="stable").tolist():
        if len(lines) == N_NEAREST:
            break
        lines[_one_line(examples[members[place]])] = None
    return tuple(lines)


def _one_line(example: Example) -> str:
    line = printable(" ".join((example.instruction or example.text()).split()))
    return line if len(line) <= _LINE else line[: _LINE - 1].rstrip() + "…"


def _most_frequent(groups: Iterable[str]) -> dict[str, int]:
    counts = Counter(groups)
    return {group: counts[group] for group in sorted(counts, key=lambda group: (-counts[group], group))}
