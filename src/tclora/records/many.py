"""What an evaluation of many adapters on one base found: tasks, figures, comparisons; JSON in and out."""

from dataclasses import dataclass, field

from tclora.records.records import Score

__all__ = ["ComparisonRecord", "EntrantRecord", "FigureRecord", "ManyEvalRecord", "ManyTaskRecord"]


@dataclass(frozen=True)
class EntrantRecord:
    """One adapter, or the base alone."""

    name: str
    source: str | None
    """What the user typed; None: the base alone."""
    digest: str | None
    """Of its weights and config."""
    rank: int
    """The largest rank of its modules; 0 for the base."""


@dataclass(frozen=True)
class ManyTaskRecord:
    """One task as it was put to every adapter."""

    name: str
    n: int
    """Items."""
    metrics: tuple[str, ...]
    """The main one first."""
    lower_is_better: tuple[str, ...]
    chance: dict[str, float]
    """What a uniform guess would reach, by metric, where that is known."""
    facts: dict[str, object]
    """File and digest, shots, prompt format."""
    first_prompt: str
    """What the model reads of the first item, word for word, special tokens included."""
    prompts_sha256: str
    """Of what is asked in all items, in order."""
    n_truncated: int
    """Items whose prompt lost tokens to the window."""


@dataclass(frozen=True)
class FigureRecord:
    """One metric of one adapter on one task, with its 95 % interval over items."""

    adapter: str
    task: str
    metric: str
    score: Score
    interval: str
    """wilson (values of 0 and 1) or bootstrap."""
    by_group: dict[str, Score] = field(default_factory=dict)
    """By the task's own parts, where it has any."""
    group_mean: Score | None = None
    """The mean of the parts' figures, each counting alike; its interval resamples within parts."""


@dataclass(frozen=True)
class ComparisonRecord:
    """Two adapters on the same items: the first's figure less the second's, with a paired bootstrap interval."""

    task: str
    """A task, or `macro mean` over tasks."""
    metric: str
    first: str
    second: str
    difference: Score
    n_first: int
    """Items on which the first has the higher value."""
    n_second: int
    test: str
    """mcnemar (exact; values of 0 and 1) or bootstrap."""
    p: float
    p_holm: float
    """Corrected for all comparisons of this task and metric."""


@dataclass(frozen=True)
class ManyEvalRecord:
    """The whole evaluation: one base load, one prompt format, many adapters."""

    base: str
    base_digest: str
    dtype: str
    template: str
    """plain or base: what prompts are written in."""
    backend: str
    seed: int
    n_bootstrap: int
    window: int
    """Tokens of prompt and answer together."""
    entrants: tuple[EntrantRecord, ...]
    tasks: tuple[ManyTaskRecord, ...]
    figures: tuple[FigureRecord, ...]
    comparisons: tuple[ComparisonRecord, ...]
    macro: dict[str, Score] = field(default_factory=dict)
    """By adapter: the unweighted mean of the tasks' main metrics; empty with fewer than two such tasks."""
    macro_tasks: tuple[str, ...] = ()
    macro_chance: float | None = None
    """The mean of the tasks' chances; None where one is not known."""
    notes: tuple[str, ...] = ()
    sandbox: str | None = None
    """The sandbox in which programs ran, in words; None: no task ran any."""
