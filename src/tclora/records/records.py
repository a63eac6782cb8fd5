"""What each stage states about its work. Units stand in the names; losses are nats per response token."""

from dataclasses import dataclass, field

__all__ = [
    "ClusterMapRecord",
    "ClusterRecord",
    "ClusterSummary",
    "ContestantRecord",
    "EncodeRecord",
    "EvalRecord",
    "MergeRecord",
    "NClustersPoint",
    "NClustersRecord",
    "PairedRecord",
    "Score",
    "TrainRecord",
]


@dataclass(frozen=True)
class EncodeRecord:
    """What was embedded, and with what."""

    encoder: str
    text: str
    n_train: int
    n_dev: int
    d_embed: int
    dtype: str = "float32"
    n_bytes: int = 0
    """Of the two matrices on disk."""
    model: str | None = None
    """What a sentence encoder is called; None for the others."""
    texts_per_s: float | None = None
    """Of embedding, for one worker; fitting and loading are left out. Not part of the stage's result."""


@dataclass(frozen=True)
class ClusterSummary:
    """One cluster, as a person wants to see it."""

    index: int
    n_train: int
    n_dev: int
    n_tokens: int
    """Length of prompt and response of its training examples, in the record's `token_unit`."""
    top_terms: tuple[str, ...]
    nearest: tuple[str, ...]
    """The instructions of the examples nearest to the centroid."""
    tasks: dict[str, int]
    """Training examples by task family, where known, most frequent first."""


@dataclass(frozen=True)
class ClusterMapRecord:
    """A picture of a clustering: some training rows and the centroids in the plane. The units of the axes are free."""

    method: str
    """pca or umap."""
    n_rows: int
    """Training rows that the shown ones were drawn from."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[int, ...]
    centroid_x: tuple[float, ...]
    centroid_y: tuple[float, ...]
    variance_shares: tuple[float, ...] = ()
    """Of pca: the share of the variance along each axis."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NClustersPoint:
    """What was measured for one number of clusters, in the space of the search. None: not defined for it.

    `calinski_harabasz` and `gap` are also None where every row lies on its centroid: they are then infinite.
    """

    n_clusters: int
    within: float
    """Mean squared distance of a sampled row to its centroid."""
    smallest_rows: int
    """Rows of the smallest cluster, as many as the sample stands for."""
    smallest_tokens: int | None
    balance_rows: float
    """Entropy of the sizes over its largest value: 1 if all clusters are as large."""
    balance_tokens: float | None
    large_enough: bool
    """Whether the smallest cluster has the rows and tokens it must have."""
    stability: float | None = None
    """Mean adjusted Rand index between clusterings of resamples, on rows that none of them held."""
    stability_se: float | None = None
    silhouette: float | None = None
    silhouette_null: float | None = None
    """The same on rows from one normal distribution of the same covariance."""
    silhouette_se: float | None = None
    """Standard error of the difference of the two."""
    calinski_harabasz: float | None = None
    davies_bouldin: float | None = None
    gap: float | None = None
    gap_se: float | None = None


@dataclass(frozen=True)
class NClustersRecord:
    """How the number of clusters was chosen: the whole curve, the rule, and a sentence of reasons."""

    n_clusters: int
    rule: str
    reasons: str
    structure: bool
    """Whether the rows fall into groups more than those of one normal distribution do."""
    suggestions: dict[str, int]
    """What each rule would choose, this one among them."""
    points: tuple[NClustersPoint, ...]
    """One for each number that was tried, ascending, and one for a single cluster."""
    n_rows: int
    sample_size: int
    n_held_out: int
    n_resamples: int
    n_axes: int
    """Principal axes of the sample that the search ran on."""
    variance_kept: float
    """Their share of the variance, 0 to 1."""
    notes: tuple[str, ...] = ()
    """Numbers that were not tried, and why."""


@dataclass(frozen=True)
class ClusterRecord:
    """A clustering of the training examples. `n_clusters` is how many there are, which may be fewer than asked for."""

    n_clusters: int
    sample_size: int
    inertia: float
    """Mean squared distance of a training example to its centroid."""
    clusters: tuple[ClusterSummary, ...]
    algorithm: str = "kmeans"
    engine: str = "scikit-learn"
    """What did the fit."""
    token_unit: str = "words"
    """What `n_tokens` counts: `tokens` of the base's tokenizer, or `words` as blanks part them."""
    dev_assignment: str = "nearest centroid"
    """How the dev examples got their cluster."""
    notes: tuple[str, ...] = ()
    """What was joined, split, dissolved or moved."""
    choice: NClustersRecord | None = None
    """How `n_clusters` was chosen, where it was `auto`."""


@dataclass(frozen=True)
class TrainRecord:
    """One trained adapter."""

    name: str
    n_examples: int
    n_steps: int
    n_tokens: int
    """Tokens put through the model, prompt and response, all epochs."""
    n_response_tokens: int
    train_loss: float
    dev_loss: float | None
    dev_loss_base: float | None
    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    truncated: int = 0
    """Examples that lost prompt tokens to `max_length`."""
    trainer: str = "plain"
    """`grouped`: several adapters in one pass; `plain`: one adapter through PEFT's layers."""
    notes: tuple[str, ...] = ()
    """Why it was trained so, and what else a reader should know."""


@dataclass(frozen=True)
class MergeRecord:
    """One merge. `relative_error` is that of the method's own model of the stack; 0 for an exact method."""

    method: str
    params: dict[str, object]
    n_adapters: int
    n_modules: int
    out_rank: int
    relative_error: float
    identity_error: float
    adapter_weights: tuple[float, ...]
    scale: float
    dtype: str
    adapters: tuple[str, ...]
    wall_s: float
    peak_bytes: int
    out: str | None
    modules: dict[str, dict[str, object]] = field(default_factory=dict)
    """Per module: relative error, terms, iterations, diagnostics of the method."""
    notes: tuple[str, ...] = ()
    verified: dict[str, object] = field(default_factory=dict)
    """What `--verify` found; empty where it was not asked for."""


@dataclass(frozen=True)
class Score:
    """One figure with its sample size and a 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ContestantRecord:
    """Every figure of one contestant. Loss by cluster is keyed by the cluster's name."""

    name: str
    kind: str
    """base, adapter, routed, merged, multi_task or control."""
    loss: Score | None
    loss_by_cluster: dict[str, Score]
    exact_match: Score | None
    exact_match_by_cluster: dict[str, Score]
    choice_accuracy: dict[str, Score]
    rank: int | None = None
    n_adapters: int | None = None
    """Adapters behind it: 0 for the base, 1 for a single adapter, more where items are routed. None: not recorded."""


@dataclass(frozen=True)
class PairedRecord:
    """Two contestants on the same examples: the first's loss less the second's, negative where the first is better.

    Intervals are of the difference, with both resampled together; by cluster, keyed by the cluster's name.
    """

    first: str
    second: str
    loss: Score
    loss_by_cluster: dict[str, Score]


@dataclass(frozen=True)
class EvalRecord:
    """The whole evaluation: one base load, one prompt format, many contestants."""

    base: str
    template: str
    n_dev: int
    n_choice: dict[str, int]
    contestants: tuple[ContestantRecord, ...]
    chance: dict[str, float] = field(default_factory=dict)
    paired: tuple[PairedRecord, ...] = ()
