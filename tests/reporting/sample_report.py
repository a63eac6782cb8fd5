"""A small invented run, with awkward text in it. Used by the tests and by `make_golden.py`."""

from tclora.records import (
    ClusterRecord,
    ClusterSummary,
    ContestantRecord,
    EncodeRecord,
    EvalRecord,
    MergeRecord,
    Score,
    TrainRecord,
)
from tclora.reporting import RunReport

NAMES = ("cluster-0", "cluster-1")


def sample_report() -> RunReport:
    contestants = (
        contestant("base", "base", 3.0, None),
        contestant("cluster-0", "adapter", 2.6, 4),
        contestant("cluster-1", "adapter", 2.7, 4),
        contestant("routed library", "routed", 2.2, 4),
        contestant("tc_lora", "merged", 2.4, 20),
        contestant("mean", "merged", 2.5, 8),
        contestant("multi_task", "multi_task", 2.3, 4),
    )
    return RunReport(
        name="sample | run",
        command="tclora run sample.yaml",
        config={"name": "sample | run", "seed": 0, "evaluate": {"max_new_tokens": 32}},
        versions={"python": "3.12.0", "torch": "2.13.0"},
        machine={"system": "Linux x86_64", "cpus": "2"},
        encode=EncodeRecord("tfidf", "instruction_and_input", 1900, 100, 64),
        clusters=ClusterRecord(2, 380, 0.71234, (cluster(0), cluster(1))),
        training=tuple(training(name) for name in (*NAMES, "multi_task")),
        merges=(merge("tc_lora", {"cp_rank": 20}, 20, 0.31), merge("mean", {}, 8, 0.0)),
        evaluation=EvalRecord(
            "tiny/base", "plain", 100, {"winogrande": 50, "quiz": 40}, contestants, {"winogrande": 0.5, "quiz": 0.25}
        ),
        wall_s={"encode": 1.5, "train": 125.0, "merge": 0.25, "evaluate": 3725.0},
        notes=("The tokenizer has no chat template.", "# not a heading, <b>not bold</b>\nand one line"),
    )


def contestant(name: str, kind: str, loss: float, rank: int | None) -> ContestantRecord:
    right = Score(0.2, 0.13, 0.29, 100)
    by_cluster = {
        NAMES[0]: Score(loss - 0.1, loss - 0.3, loss + 0.1, 60),
        NAMES[1]: Score(loss + 0.15, loss, loss + 0.3, 40),
    }
    quiz = {"winogrande": Score(0.52, 0.385, 0.652, 50), "quiz": Score(0.5, 0.352, 0.648, 40)}
    matches = {NAMES[0]: Score(0.25, 0.158, 0.372, 60), NAMES[1]: Score(0.125, 0.055, 0.261, 40)}
    score = Score(loss, loss - 0.12, loss + 0.12, 100)
    return ContestantRecord(name, kind, score, by_cluster, right, matches, quiz, rank)


def cluster(index: int) -> ClusterSummary:
    terms = ("pipe|table", "under_score", "*star*", "<script>", "`tick`", "[link](x)")
    nearest = ("First line\nsecond | line <img src=x> " + "word " * 40,)
    tasks = {"b/two": 5, "a/one": 5, "c": 9, "d": 1, "e": 1, "f": 1, "g": 2}
    return ClusterSummary(index, 950 + index, 50 - index, 12345, terms, nearest, tasks)


def training(name: str) -> TrainRecord:
    return TrainRecord(name, 950, 297, 123456, 45678, 2.31, 2.4, 3.01, 4, 16.0, ("q_proj", "v_proj"), 3)


def merge(method: str, params: dict[str, object], rank: int, error: float) -> MergeRecord:
    return MergeRecord(
        method, params, 2, 12, rank, error, 1.2e-7, (0.5, 0.5), 1.0, "bf16", NAMES, 0.125, 5 * 2**20, method
    )
