"""The paired comparison of a report: figures, verdicts, and what the limits still say."""

from dataclasses import replace

import pytest
from sample_report import contestant, sample_report

from tclora.records import EvalRecord, PairedRecord, Score, from_json, to_json
from tclora.reporting import render_markdown
from tclora.reporting.answer import answer, limits
from tclora.reporting.paired import paired_cluster_table, paired_table

RANDOM = "random-clusters routed"


def compared(*pairs: PairedRecord, random_clusters: bool = True):
    report = sample_report()
    extra = (contestant(RANDOM, "control", 2.3, 4),) if random_clusters else ()
    evaluation = replace(report.evaluation, contestants=report.evaluation.contestants + extra, paired=pairs)
    return replace(report, evaluation=evaluation)


def pair(value: float, low: float, high: float, first="routed library", second=RANDOM) -> PairedRecord:
    by_cluster = {"cluster-0": Score(value - 0.01, low - 0.02, high + 0.02, 60)}
    return PairedRecord(first, second, Score(value, low, high, 100), by_cluster)


@pytest.mark.parametrize(
    ("score", "lower", "words"),
    [
        ((-0.1, -0.15, -0.05), "first", "0.100 below random-clusters routed; the 95 % interval of the difference, "),
        ((0.1, 0.05, 0.15), "second", "0.100 above random-clusters routed"),
        ((-0.1, -0.25, 0.05), "-", "[-0.250, 0.050], includes 0."),
        ((0.0, 0.0, 0.0), "-", "level with random-clusters routed"),
    ],
)
def test_the_verdict_follows_the_interval_whoever_wins(score, lower, words):
    report = compared(pair(*score))
    assert paired_table(report)[1][0][-1] == lower
    assert words in answer(report)


def test_tables_state_n_and_intervals():
    report = compared(pair(-0.1, -0.15, -0.05), pair(0.2, 0.1, 0.3, "tc_lora", "multi_task"))
    header, rows = paired_table(report)
    assert header == ["first", "second", "difference (n=100)", "lower"]
    assert rows[1] == ["tc_lora", "multi_task", "0.200 [0.100, 0.300]", "second"]
    header, rows = paired_cluster_table(report)
    assert header == ["first", "second", "cluster-0 (n=60)"]
    assert rows == [["routed library", RANDOM, "-0.110 [-0.170, -0.030]"]]


def test_merges_are_compared_in_the_table_alone():
    assert "On the same" not in answer(compared(pair(0.2, 0.1, 0.3, "tc_lora", "multi_task")))


def test_the_note_on_random_clusters_goes_when_they_were_run():
    text = " ".join(limits(compared(pair(-0.1, -0.15, -0.05))))
    assert "Random clusters of the same sizes" not in text and "Random factors of the same norms" in text
    assert "a paired comparison can tell apart" not in text
    assert "Random clusters of the same sizes" in " ".join(limits(compared(random_clusters=False)))


def test_without_pairs_there_is_no_section():
    assert "Paired comparison" not in render_markdown(sample_report())
    text = render_markdown(compared(pair(-0.1, -0.15, -0.05)))
    assert "## Paired comparison\n" in text and "## Paired comparison by cluster\n" in text


def test_a_control_of_one_adapter_takes_part_in_the_ranking_and_a_routed_one_does_not():
    report = sample_report()
    best = replace(contestant("multi-task-equal-parameters", "control", 1.0, 8), n_adapters=1)
    routed = replace(contestant(RANDOM, "control", 0.5, 4), n_adapters=2)
    evaluation = replace(report.evaluation, contestants=(*report.evaluation.contestants, best, routed))
    assert "multi-task-equal-parameters (control) has the lowest loss" in answer(replace(report, evaluation=evaluation))


def test_records_of_earlier_versions_are_read():
    record = compared(pair(-0.1, -0.15, -0.05)).evaluation
    assert from_json(EvalRecord, to_json(record)) == record
    old = to_json(record)
    del old["paired"]
    for one in old["contestants"]:
        del one["n_adapters"]
    assert from_json(EvalRecord, old) == replace(record, paired=())
