"""What each stage states about its work. Units stand in the names; losses are nats per response token."""

from dataclasses import dataclass, field

__all__ = [
    "ClusterRecord",
    "ClusterSummary",
    "ContestantRecord",
    "EncodeRecord",
    "EvalRecord",
    "MergeRecord",
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


@dataclass(frozen=True)
class ClusterSummary:
    """One cluster, as a person wants to see it."""

    index: int
    n_train: int
    n_dev: int
    n_tokens: int
    """Whitespace-separated words of prompt and response of its training examples; a tokenizer is not needed."""
    top_terms: tuple[str, ...]
    nearest: tuple[str, ...]
    """The instructions of the examples nearest to the centroid."""
    tasks: dict[str, int]
    """Training examples by task family, where known, most frequent first."""


@dataclass(frozen=True)
class ClusterRecord:
    """A k-means clustering of the training examples."""

    n_clusters: int
    sample_size: int
    inertia: float
    """Mean squared distance of a training example to its centroid."""
    clusters: tuple[ClusterSummary, ...]


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
    """base, adapter, routed, merged or multi_task."""
    loss: Score | None
    loss_by_cluster: dict[str, Score]
    exact_match: Score | None
    exact_match_by_cluster: dict[str, Score]
    choice_accuracy: dict[str, Score]
    rank: int | None = None


@dataclass(frozen=True)
class EvalRecord:
    """The whole evaluation: one base load, one prompt format, many contestants."""

    base: str
    template: str
    n_dev: int
    n_choice: dict[str, int]
    contestants: tuple[ContestantRecord, ...]
    chance: dict[str, float] = field(default_factory=dict)
