"""The tables of a report, as plain text: a header and rows. Escaping is the renderer's work.

In: a `RunReport`. Out: header and rows, in the order of the records. A figure that was not measured is a dash.
"""

from collections.abc import Callable, Mapping, Sequence

from tclora.records import ClusterSummary, ContestantRecord, EvalRecord, MergeRecord, Score
from tclora.reporting.run_report import RunReport
from tclora.reporting.wording import NONE, clip, count, loss, number, percent, seconds, share, size, small

__all__ = [
    "Table",
    "cluster_loss_table",
    "cluster_match_table",
    "cluster_table",
    "merge_name",
    "merge_table",
    "results_table",
    "training_table",
]

Table = tuple[list[str], list[list[str]]]

_N_TERMS, _N_TASKS, _N_CHARACTERS = 8, 5, 120


def results_table(report: RunReport) -> Table:
    """The main table: a row per contestant, and a last row with what guessing would reach.

    Returns:
        header and rows; losses in nats per response token, shares in percent, intervals in brackets.
    """
    record = report.evaluation
    header = ["contestant", "kind", "rank", f"dev loss (n={count(record.n_dev)})"]
    header += [f"exact match (n={count(_n_matched(record.contestants))})"]
    header += [f"{name} (n={count(n)})" for name, n in record.n_choice.items()]
    rows = [_result_row(contestant, list(record.n_choice)) for contestant in record.contestants]
    if report.held_out:
        header += [f"unseen tasks, {what} (n={count(n)})" for what, n in _held_out_sizes(report.held_out)]
        found = {c.name: [loss(c.loss), share(c.exact_match)] for c in report.held_out.contestants}
        rows = [[*row, *found.get(row[0], [NONE, NONE])] for row in rows]
    if record.chance:
        guesses = [percent(record.chance[name]) if name in record.chance else NONE for name in record.n_choice]
        rows.append((["chance", "", "", "", "", *guesses] + [""] * len(header))[: len(header)])
    return header, rows


def cluster_loss_table(report: RunReport) -> Table:
    """Development loss of every contestant in every cluster, without intervals (`report.json` has them)."""
    return _by_cluster({c.name: c.loss_by_cluster for c in report.evaluation.contestants}, number)


def cluster_match_table(report: RunReport) -> Table:
    """Exact match of every contestant in every cluster, without intervals."""
    return _by_cluster({c.name: c.exact_match_by_cluster for c in report.evaluation.contestants}, percent)


def cluster_table(report: RunReport) -> Table:
    """What is in each cluster: sizes, its own terms, its tasks and the example nearest to its centroid."""
    header = ["cluster", "train", "dev", report.clusters.token_unit, "top terms", "tasks", "nearest example"]
    return header, [_cluster_row(cluster) for cluster in report.clusters.clusters]


def training_table(report: RunReport) -> Table:
    """What training each adapter took, and the loss on its own development examples before and after."""
    header = ["adapter", "examples", "steps", "tokens", "r", "train loss", "dev loss before", "dev loss after", "cut"]
    rows = [
        [
            record.name,
            count(record.n_examples),
            count(record.n_steps),
            count(record.n_tokens),
            str(record.r),
            number(record.train_loss),
            number(record.dev_loss_base),
            number(record.dev_loss),
            count(record.truncated),
        ]
        for record in report.training
    ]
    return header, rows


def merge_table(report: RunReport) -> Table:
    """What each merge is, how exact it is, and what it cost."""
    header = ["merge", "method", "params", "rank", "relative error", "identity error", "time", "peak memory"]
    return header, [_merge_row(record) for record in report.merges]


def merge_name(record: MergeRecord) -> str:
    """The name a merge goes by among the contestants: its output's, or its method's."""
    return record.out.rstrip("/").rsplit("/", 1)[-1] if record.out else record.method


def _result_row(contestant: ContestantRecord, tasks: Sequence[str]) -> list[str]:
    return [
        contestant.name,
        contestant.kind.replace("_", "-"),
        NONE if contestant.rank is None else str(contestant.rank),
        loss(contestant.loss),
        share(contestant.exact_match),
        *[share(contestant.choice_accuracy.get(task)) for task in tasks],
    ]


def _held_out_sizes(record: EvalRecord) -> list[tuple[str, int]]:
    return [("loss", record.n_dev), ("match", _n_matched(record.contestants))]


def _n_matched(contestants: Sequence[ContestantRecord]) -> int:
    return max((c.exact_match.n for c in contestants if c.exact_match is not None), default=0)


def _by_cluster(scores: Mapping[str, Mapping[str, Score]], write: Callable[[float], str]) -> Table:
    sizes: dict[str, int] = {}
    for by_cluster in scores.values():
        for name, score in by_cluster.items():
            sizes[name] = max(sizes.get(name, 0), score.n)
    rows = [
        [contestant, *[write(found[name].value) if name in found else NONE for name in sizes]]
        for contestant, found in scores.items()
    ]
    return ["contestant", *[f"{name} (n={count(n)})" for name, n in sizes.items()]], rows


def _cluster_row(cluster: ClusterSummary) -> list[str]:
    tasks = sorted(cluster.tasks.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{name} {count(n)}" for name, n in tasks[:_N_TASKS]]
    rest = sum(n for _, n in tasks[_N_TASKS:])
    return [
        str(cluster.index),
        count(cluster.n_train),
        count(cluster.n_dev),
        count(cluster.n_tokens),
        ", ".join(cluster.top_terms[:_N_TERMS]) or NONE,
        ", ".join([*shown, *([f"{len(tasks) - _N_TASKS} others {count(rest)}"] if rest else [])]) or NONE,
        clip(cluster.nearest[0], _N_CHARACTERS) if cluster.nearest else NONE,
    ]


def _merge_row(record: MergeRecord) -> list[str]:
    return [
        merge_name(record),
        record.method,
        ", ".join(f"{key}={record.params[key]}" for key in sorted(record.params)) or NONE,
        str(record.out_rank),
        small(record.relative_error),
        small(record.identity_error),
        seconds(record.wall_s),
        size(record.peak_bytes),
    ]
