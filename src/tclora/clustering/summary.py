"""What a person wants to know of a clustering: sizes, telling words, typical instructions, and the tasks inside.

In: a model, the examples with their embeddings (memory-mapped or not) and labels, and the labels of the dev examples.
Out: a `ClusterRecord`. Refused: parts that are not equally many.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tclora.clustering.assign import assignment_of
from tclora.clustering.model import ClusterModel, ExampleFacts
from tclora.clustering.rows import gathered_chunks
from tclora.data import Example, task_groups
from tclora.errors import ShapeError, printable
from tclora.records import ClusterRecord, ClusterSummary
from tclora.shapes import Float, Int

__all__ = ["N_NEAREST", "N_TERMS", "n_words", "summarize_clusters"]

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
    facts: ExampleFacts | None = None,
) -> ClusterRecord:
    """Describe every cluster.

    The top terms are those that add most to the divergence of the cluster's words from those of all clusters: with `p`
    the share of the cluster's examples that hold a word and `q` that of all examples, the score is `p log(p / q)`. So a
    word as common elsewhere scores zero, without a list of stop words. The nearest are distinct instructions. Memory
    grows with the words there are, not with the examples.

    Args:
        facts: where it holds lengths, `n_tokens` of a cluster is their sum, in their unit; else words are counted.

    Raises:
        ShapeError: the examples, embeddings and labels are not equally many.
    """
    counts = {"examples": len(examples_train), "embeddings": len(embeddings_train), "labels": len(labels_train)}
    if len(set(counts.values())) > 1:
        raise ShapeError("examples, embeddings and labels do not belong together", found=counts, expected="as many")
    k = len(model.centroids)
    inside = _word_counts(examples_train, labels_train, k)
    overall: Counter[str] = sum(inside, Counter())
    groups = task_groups(examples_train)
    known = None if facts is None else facts.n_tokens
    lengths = np.array([n_words(example) for example in examples_train], dtype=np.int64) if known is None else known
    clusters = []
    for index in range(k):
        members = np.flatnonzero(labels_train == index)
        clusters.append(
            ClusterSummary(
                index=index,
                n_train=len(members),
                n_dev=int((labels_dev == index).sum()),
                n_tokens=int(lengths[members].sum()),
                top_terms=_top_terms(inside[index], len(members), overall, len(examples_train)),
                nearest=_nearest(model.centroids[index], examples_train, embeddings_train, members),
                tasks=_most_frequent(groups[member] for member in members.tolist() if groups[member]),
            )
        )
    return ClusterRecord(
        n_clusters=k,
        sample_size=model.sample_size,
        inertia=model.inertia,
        clusters=tuple(clusters),
        algorithm=model.algorithm,
        engine=model.engine,
        token_unit="words" if facts is None or known is None else facts.token_unit,
        dev_assignment=assignment_of(model),
        notes=model.notes,
    )


def n_words(example: Example) -> int:
    """Words of prompt and response, as blanks part them."""
    turns = (turn.content for turn in example.history)
    return sum(len(text.split()) for text in (example.instruction, example.input, example.output, *turns))


def _word_counts(examples: Sequence[Example], labels: np.ndarray, k: int) -> list[Counter[str]]:
    """For each cluster, in how many of its examples a word stands."""
    inside: list[Counter[str]] = [Counter() for _ in range(k)]
    for example, label in zip(examples, labels.tolist(), strict=True):
        inside[label].update(set(_WORD.findall(example.text().lower())))
    return inside


def _top_terms(inside: Counter[str], n_inside: int, overall: Counter[str], n_all: int) -> tuple[str, ...]:
    scores = {
        word: count / n_inside * np.log(count * n_all / (n_inside * overall[word])) for word, count in inside.items()
    }
    # Rounded, so that words of equal counts tie exactly and the alphabet decides.
    ranked = sorted(scores, key=lambda word: (-round(float(scores[word]), 12), word))
    return tuple(word for word in ranked[:N_TERMS] if scores[word] > 1e-12)


def _nearest(
    centroid: Float[np.ndarray, " d_embed"],
    examples: Sequence[Example],
    embeddings: Float[np.ndarray, "n_train d_embed"],
    members: Int[np.ndarray, " n_members"],
) -> tuple[str, ...]:
    pieces = [
        ((rows.astype(np.float64) - centroid) ** 2).sum(axis=1) for _, rows in gathered_chunks(embeddings, members)
    ]
    distances = np.concatenate([np.empty(0), *pieces])
    lines: dict[str, None] = {}
    for place in np.argsort(distances, kind="stable").tolist():
        if len(lines) == N_NEAREST:
            break
        lines[_one_line(examples[int(members[place])])] = None
    return tuple(lines)


def _one_line(example: Example) -> str:
    line = printable(" ".join((example.instruction or example.text()).split()))
    return line if len(line) <= _LINE else line[: _LINE - 1].rstrip() + "…"


def _most_frequent(groups: Iterable[str]) -> dict[str, int]:
    counts = Counter(groups)
    return {group: counts[group] for group in sorted(counts, key=lambda group: (-counts[group], group))}
