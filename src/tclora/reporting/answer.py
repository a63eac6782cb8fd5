"""The question of a run and its answer, in sentences made from the figures alone.

In: a `RunReport`. Out: plain text. The sentences are the same whichever contestant wins: nothing here knows which
method is ours. "Overlap" is of the two 95 % intervals, which is a cautious test: paired figures can differ although
their intervals overlap.
"""

from tclora.records import ContestantRecord, Score
from tclora.reporting.paired import paired_sentences
from tclora.reporting.run_report import RunReport
from tclora.reporting.tables import merge_name
from tclora.reporting.wording import count, listing, loss, number, overlap

__all__ = ["answer", "limits", "question"]


def question(report: RunReport) -> str:
    """What the run asks."""
    n = sum(contestant.kind == "adapter" for contestant in report.evaluation.contestants)
    return (
        f"Can {n} LoRA adapters, one for each cluster of the data, become one adapter that keeps what each has learned?"
    )


def answer(report: RunReport) -> str:
    """One paragraph: which single adapter has the lowest loss, and how every merge compares with the controls."""
    measured = [c for c in report.evaluation.contestants if c.loss is not None]
    single = sorted((c for c in measured if _is_single(c)), key=_loss_of)
    if not single:
        return "No single adapter was scored on development examples, so this run gives no answer."
    sentences = [_best_sentence(single, report.evaluation.n_dev)]
    controls = _controls(report, measured)
    merges = [c for c in measured if c.kind == "merged"]
    sentences += [sentence for merge in merges if (sentence := _merge_sentence(merge, controls))]
    if not merges:
        sentences.append("No merge was scored.")
    return " ".join(sentences + paired_sentences(report))


def limits(report: RunReport) -> list[str]:
    """What the figures do not show, each as one sentence; those that depend on the figures only where they apply."""
    kinds = {contestant.kind for contestant in report.evaluation.contestants}
    absent = [name for kind, name in _CONTROL_KINDS if kind not in kinds]
    absent += [] if _mean_names(report) else ["a merge by the mean of the deltas"]
    near = _near_chance(report)
    generated = report.config.get("evaluate", {}).get("max_new_tokens")
    return [
        *([f"Controls that were not run: {listing(absent)}."] if absent else []),
        *([_NEAR_CHANCE.format(listing(near))] if near else []),
        *([f"Answers are cut at {generated} new tokens, so a longer one can never match."] if generated else []),
        *([] if report.held_out else [_ONLY_SEEN_TASKS]),
        _ONE_SEED,
        _PAIRED_BESIDE if report.evaluation.paired else _NOT_PAIRED,
        _NO_RANDOM_FACTORS if _has_random_clusters(report) else _NO_RANDOM_CONTROLS,
    ]


_CONTROL_KINDS = (
    ("base", "the base alone"),
    ("routed", "the routed library"),
    ("multi_task", "one multi-task adapter on all data"),
)
_NEAR_CHANCE = (
    "No contestant's interval lies above chance on {}, so these figures do not separate the contestants; "
    "a base this size may not be able to do the task."
)
_ONLY_SEEN_TASKS = (
    "The development examples come from the same tasks as the training data, so their loss says nothing of tasks "
    "never trained on."
)
_ONE_SEED = (
    "One seed of clustering, training and merging: intervals are over examples only, and another seed may move "
    "every figure by more than they say."
)
_NOT_PAIRED = (
    "Intervals that overlap do not show that two contestants are equal: they are scored on the same examples, and a "
    "paired comparison can tell apart what separate intervals cannot."
)
_PAIRED_BESIDE = (
    "Intervals of single contestants that overlap do not show that two are equal; where a pair was compared on the "
    "same examples, the paired comparison says more."
)
_NO_RANDOM_CONTROLS = "Random clusters of the same sizes and random factors of the same norms were not compared."
_NO_RANDOM_FACTORS = "Random factors of the same norms were not compared."


def _has_random_clusters(report: RunReport) -> bool:
    return any(c.kind == "control" and c.name.startswith("random-clusters") for c in report.evaluation.contestants)


def _is_single(contestant: ContestantRecord) -> bool:
    """Whether one adapter answers everything; records of earlier versions tell it by the kind alone."""
    if contestant.n_adapters is not None:
        return contestant.n_adapters == 1
    return contestant.kind in ("adapter", "merged", "multi_task")


def _loss_of(contestant: ContestantRecord) -> tuple[float, str]:
    return (contestant.loss.value if contestant.loss else float("inf"), contestant.name)


def _best_sentence(single: list[ContestantRecord], n_dev: int) -> str:
    best = single[0]
    text = (
        f"Of the {len(single)} contestants that are one adapter, {best.name} ({best.kind.replace('_', '-')}) has the "
        f"lowest loss on the {count(n_dev)} development examples: {loss(best.loss)} nats per response token."
    )
    if len(single) < 2:
        return text
    return (
        f"{text} The next is {single[1].name} with {loss(single[1].loss)}; the {_verdict(best.loss, single[1].loss)}."
    )


def _controls(report: RunReport, measured: list[ContestantRecord]) -> list[tuple[str, ContestantRecord]]:
    means = _mean_names(report)
    mean = [("the mean", c) for c in measured if c.kind == "merged" and c.name in means][:1]
    words = {"routed": "the routed library", "multi_task": "the multi-task adapter", "base": "the base"}
    return mean + [(words[kind], c) for kind in words for c in measured if c.kind == kind]


def _mean_names(report: RunReport) -> set[str]:
    return {merge_name(record) for record in report.merges if record.method == "mean"}


def _merge_sentence(merge: ContestantRecord, controls: list[tuple[str, ContestantRecord]]) -> str:
    parts = [
        f"{_difference(merge.loss, other.loss)} {word} ({_verdict(merge.loss, other.loss)})"
        for word, other in controls
        if other.name != merge.name
    ]
    return f"{merge.name}, at {loss(merge.loss)}, is {listing(parts)}." if parts else ""


def _difference(score: Score | None, other: Score | None) -> str:
    if score is None or other is None or score.value == other.value:
        return "level with"
    return f"{number(abs(score.value - other.value))} {'below' if score.value < other.value else 'above'}"


def _verdict(a: Score | None, b: Score | None) -> str:
    return "intervals overlap" if a is not None and b is not None and overlap(a, b) else "intervals do not overlap"


def _near_chance(report: RunReport) -> list[str]:
    record = report.evaluation
    near = []
    for task, chance in record.chance.items():
        scores = [c.choice_accuracy[task] for c in record.contestants if task in c.choice_accuracy]
        if scores and all(score.low <= chance for score in scores):
            near.append(task)
    return near
