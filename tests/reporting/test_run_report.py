"""Reports: format by golden files (made by `make_golden.py`), sentences and tables by their figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_report import sample_report

from tclora.errors import ArtifactError
from tclora.records import EvalRecord, Score, from_json
from tclora.reporting import render_json, render_markdown, results_table, write_report
from tclora.reporting.answer import answer, limits
from tclora.reporting.wording import clip, listing, overlap, seconds, size

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["report.json", "report.md"])
def test_golden_files(tmp_path, name):
    write_report(tmp_path, sample_report())
    assert (tmp_path / name).read_text() == (GOLDEN / name).read_text()


def test_nothing_else_is_left_in_the_folder(tmp_path):
    write_report(tmp_path / "new", sample_report())
    write_report(tmp_path / "new", sample_report())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.json", "report.md"]


def test_json_holds_every_record():
    data = json.loads(render_json(sample_report()))
    assert from_json(EvalRecord, data["evaluation"]) == sample_report().evaluation
    assert set(data) >= {"config", "versions", "machine", "encode", "clusters", "training", "merges", "wall_s", "notes"}
    assert data["not_finite"] == []


def test_json_is_strict_where_figures_are_not_finite():
    report = sample_report()
    broken = replace(report.merges[0], relative_error=float("nan"))
    text = render_json(replace(report, merges=(broken, report.merges[1]), wall_s={"merge": float("inf")}))

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(text, parse_constant=refuse)
    assert data["not_finite"] == ["merges[0].relative_error", "wall_s.merge"]
    assert data["merges"][0]["relative_error"] is None


def test_a_broken_figure_is_a_dash_in_the_page():
    report = sample_report()
    broken = replace(report.merges[0], relative_error=float("nan"))
    assert "| 20 | - | 1.2e-07 |" in render_markdown(replace(report, merges=(broken,)))


def test_numpy_scalars_and_paths_are_plain_data():
    report = replace(sample_report(), config={"a": np.float32(0.5), "b": np.int64(3), "c": Path("x/y")})
    assert json.loads(render_json(report))["config"] == {"a": 0.5, "b": 3, "c": "x/y"}


def test_other_objects_are_refused():
    with pytest.raises(ArtifactError, match=r"no plain data(?s:.)*config\.a\[1\](?s:.)*object"):
        render_json(replace(sample_report(), config={"a": [1, object()]}))


def test_the_main_table_states_figures_intervals_and_sizes():
    header, rows = results_table(sample_report())
    assert header[3:6] == ["dev loss (n=100)", "exact match (n=100)", "winogrande (n=50)"]
    assert rows[4][:5] == ["tc_lora", "merged", "20", "2.400 [2.280, 2.520]", "20.0% [13.0, 29.0]"]
    assert rows[-1] == ["chance", "", "", "", "", "50.0%", "25.0%"]
    assert all(len(row) == len(header) for row in rows)


def test_figures_that_were_not_measured_are_dashes():
    report = sample_report()
    bare = replace(report.evaluation.contestants[0], loss=None, exact_match=None, choice_accuracy={})
    evaluation = replace(report.evaluation, contestants=(bare,))
    assert results_table(replace(report, evaluation=evaluation))[1][0] == ["base", "base", "-", "-", "-", "-", "-"]


def with_losses(**losses: float):
    """The sample with other losses, each with an interval of 0.05 to either side."""
    report = sample_report()
    contestants = tuple(
        replace(c, loss=Score(losses[c.name], losses[c.name] - 0.05, losses[c.name] + 0.05, 100))
        if c.name in losses
        else c
        for c in report.evaluation.contestants
    )
    return replace(report, evaluation=replace(report.evaluation, contestants=contestants))


@pytest.mark.parametrize("winner", ["tc_lora", "mean", "multi_task", "cluster-1"])
def test_the_answer_names_whoever_has_the_lowest_loss(winner):
    assert f"{winner} (" in answer(with_losses(**{winner: 1.0})).split(" has the lowest loss")[0]


def test_the_routed_library_is_no_single_adapter():
    report = with_losses(**{"routed library": 0.5})
    assert "multi_task (multi-task) has the lowest loss" in answer(report)


def test_the_answer_compares_every_merge_with_every_control():
    text = answer(with_losses(tc_lora=2.0, mean=2.5, multi_task=1.98, **{"routed library": 1.8}))
    assert "tc_lora, at 2.000 [1.950, 2.050], is 0.500 below the mean (intervals do not overlap)" in text
    assert "0.200 above the routed library (intervals do not overlap)" in text
    assert "0.020 above the multi-task adapter (intervals overlap)" in text


def test_a_merge_that_loses_is_said_to_lose():
    assert "tc_lora, at 3.500 [3.450, 3.550], is 1.000 above the mean" in answer(with_losses(tc_lora=3.5, mean=2.5))


def test_equal_losses_are_level():
    assert "is level with the mean (intervals overlap)" in answer(with_losses(tc_lora=2.5, mean=2.5))


def test_without_losses_there_is_no_answer():
    report = sample_report()
    contestants = tuple(replace(c, loss=None) for c in report.evaluation.contestants)
    report = replace(report, evaluation=replace(report.evaluation, contestants=contestants))
    assert answer(report).startswith("No single adapter was scored")
    assert "# sample" in render_markdown(report)


def test_chance_is_confessed_only_where_no_contestant_is_above_it():
    text = " ".join(limits(sample_report()))
    assert "above chance on winogrande, so" in text
    assert "quiz" not in text


def test_controls_that_were_not_run_are_named():
    report = sample_report()
    kept = tuple(c for c in report.evaluation.contestants if c.kind not in ("routed", "multi_task"))
    report = replace(report, evaluation=replace(report.evaluation, contestants=kept), merges=report.merges[:1])
    expected = (
        "Controls that were not run: the routed library, one multi-task adapter on all data and a merge by the mean"
    )
    assert limits(report)[0].startswith(expected)


def test_an_empty_run_still_makes_a_page():
    report = sample_report()
    evaluation = EvalRecord("b", "plain", 0, {}, ())
    bare = replace(report, evaluation=evaluation, training=(), merges=(), wall_s={}, versions={}, machine={}, notes=())
    text = render_markdown(replace(bare, command="", clusters=replace(report.clusters, clusters=())))
    assert "## Training" not in text and "## Merges" not in text


@pytest.mark.parametrize(
    ("wall_s", "text"), [(0.123, "0.12 s"), (59.96, "60.0 s"), (125.0, "2 min 5 s"), (3725.0, "1 h 2 min")]
)
def test_seconds(wall_s, text):
    assert seconds(wall_s) == text


def test_sizes_lists_and_clips():
    assert (size(5 * 2**20), size(3 * 2**29)) == ("5.0 MiB", "1.50 GiB")
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert (clip("a\nb", 5), clip("abcdefgh", 5)) == ("a b", "ab...")


def test_intervals_that_touch_overlap():
    assert overlap(Score(0.0, 0.0, 1.0, 1), Score(2.0, 1.0, 3.0, 1))
    assert not overlap(Score(0.0, 0.0, 0.99, 1), Score(2.0, 1.0, 3.0, 1))
