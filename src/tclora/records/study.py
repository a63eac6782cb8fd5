"""What a study of clusterings found: one record for each cell, and how far cells agree."""

from dataclasses import dataclass

from tclora.records.records import Score

__all__ = ["StudyAgreement", "StudyCell", "StudyRecord"]


@dataclass(frozen=True)
class StudyCell:
    """One clustering: an encoder, an algorithm, a number of clusters and a seed."""

    encoder: str
    clustering: str
    n_clusters: int
    """The number asked for."""
    seed: int
    n_found: int
    smallest: int
    """Training examples of the smallest cluster."""
    balance: float
    """Entropy of the sizes over its largest value; 1 where all are equal."""
    silhouette: float
    purity: float | None
    """Share of the labeled training examples whose task is the commonest of their cluster; None without labels."""
    task_nmi: float | None
    """Normalized mutual information of clusters and tasks; None without labels."""
    loss: Score | None = None
    """Dev loss, nats per response token, each example by the adapter of its cluster; None where none was trained."""
    loss_less_random: Score | None = None
    """The same less that of random clusters of the same sizes, on the same examples; None without such a cell."""


@dataclass(frozen=True)
class StudyAgreement:
    """The mean adjusted Rand index and normalized mutual information over pairs of cells that differ in one thing."""

    across: str
    """seeds, clusterings or encoders."""
    encoder: str | None
    clustering: str | None
    n_clusters: int
    ari: float
    nmi: float
    n_pairs: int


@dataclass(frozen=True)
class StudyRecord:
    """The whole study."""

    name: str
    n_train: int
    n_dev: int
    cells: tuple[StudyCell, ...]
    agreement: tuple[StudyAgreement, ...]
    notes: tuple[str, ...] = ()
