"""The page of an experiment from made-up figures: the answer follows the rule, text is harmless, pictures are sound."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from tclora.config.experiment import experiment_settings
from tclora.config.experiment_merges import MergesSettings
from tclora.records import Score
from tclora.records.experiment import Contrast, ExperimentCell, ExperimentRecord, PooledFigures
from tclora.reporting.experiment_answer import answer, verdict
from tclora.reporting.experiment_groups import rank_correlation
from tclora.reporting.experiment_merges import merges_page
from tclora.reporting.experiment_page import ExperimentPage, PageTable, page_markdown, write_experiment


def contrast(value, half=0.01, p_holm=0.01):
    return Contrast(value, value - half, value + half, p_holm / 2, p_holm, 1500, 3)


def figures(name, loss, *, kind="merge", less=None, gap=None, x=None, series=None, library="k10"):
    return PooledFigures(
        library=library,
        contestant=name,
        kind=kind,
        rank=20,
        loss={"report": Score(loss, loss - 0.1, loss + 0.1, 1500)},
        less={} if less is None else {"mean": {"report": less}},
        gap_closed={} if gap is None else {"report": Score(gap, gap - 0.1, gap + 0.1, 1500)},
        exact_match=None,
        scales=(2.0, 2.5, 2.0),
        scale_at_end=False,
        norm_to_mean=2.1,
        cosine_to_mean=0.9,
        series=series,
        x=x,
    )


RECORD = ExperimentRecord(
    name="made-up",
    base="a-base",
    n_parameters=5_500_000,
    seeds=(0, 1, 2),
    rows={"k10": {"choose": 700, "report": 1500}},
    n_adapters={"k10": (10, 10, 10)},
    cells=(),
    pooled=(
        figures("routed", 2.1, kind="routed", less=contrast(-0.2), gap=1.0),
        figures("mean", 2.3, gap=0.0),
        figures("svd", 2.28, less=contrast(-0.02), gap=0.1),
        figures("tc_lora", 2.31, less=contrast(0.005, p_holm=0.4)),
    ),
)
SETTINGS = experiment_settings(
    MergesSettings,
    {
        "name": "made-up",
        "title": "Made up",
        "question": "Is `this` <b>harmless</b>?",
        "output": "x",
        "libraries": {"k10": {"run": "run.yaml", "output": "l-{seed}"}},
        "contestants": {"mean": {}, "routed": {"kind": "routed"}, "svd": {}, "tc_lora": {}},
        "about": ["tc_lora"],
    },
    where="test",
)


def test_the_answer_names_the_best_merge_its_share_of_the_gap_and_the_comparison_asked_for():
    assert answer(RECORD, ["tc_lora"], ("mean", "routed")) == (
        "Over 3 seeds and 1,500 rows that chose nothing, each contestant at a scale chosen on other rows, the lowest "
        "loss of a merge, in nats per response token, is that of svd (2.280, which closes 10% [0, 20] of the gap from "
        "mean to routed). On the same rows, tc_lora less mean is +0.005 [-0.005, +0.015] (not told apart)."
    )


def test_the_answer_does_not_care_whose_method_wins():
    swapped = {"svd": "tc_lora", "tc_lora": "svd"}
    pooled = tuple(replace(one, contestant=swapped.get(one.contestant, one.contestant)) for one in RECORD.pooled)
    assert "is that of tc_lora (2.280" in answer(replace(RECORD, pooled=pooled), ["svd"], ("mean", "routed"))


def test_of_several_libraries_each_has_its_best():
    two = (*RECORD.pooled, *(replace(one, library="other") for one in RECORD.pooled))
    rows = dict.fromkeys((RECORD.pooled[0].library, "other"), next(iter(RECORD.rows.values())))
    said = answer(replace(RECORD, pooled=two, rows=rows), ["svd"], ("mean", "routed"))
    assert f"is that of svd in {RECORD.pooled[0].library} (2.280" in said and "svd in other (2.280" in said


def test_without_merges_or_comparisons_it_says_so():
    assert "No merge was scored" in answer(replace(RECORD, pooled=()), [], None)
    assert answer(RECORD, [], None).endswith("No comparison was asked for.")


@pytest.mark.parametrize(
    ("value", "half", "p_holm", "expected"),
    [
        (-0.02, 0.01, 0.01, "better"),
        (0.02, 0.01, 0.01, "worse"),
        (-0.02, 0.01, 0.2, "not told apart"),
        (-0.005, 0.01, 0.01, "not told apart"),
        (0.0001, 0.0001, 0.01, "equal"),
    ],
)
def test_a_verdict_needs_the_interval_and_the_corrected_p(value, half, p_holm, expected):
    assert verdict(contrast(value, half, p_holm)) == expected


def test_the_page_shows_every_contestant_once_in_the_order_of_loss_and_says_what_it_does_not_show():
    page = merges_page(RECORD, SETTINGS, command="tclora experiment x.yaml", how=[])
    rows = [row[0] for row in page.tables[0].rows]
    assert rows == ["routed", "svd", "mean", "tc_lora"]
    text = page_markdown(page)
    assert "&lt;b&gt;harmless&lt;/b&gt;" in text and "\\`this\\`" in text
    assert "5.5 million parameters" in text and "3 seeds: resampling so few" in text
    assert "unseen tasks were not scored" in text


def test_pictures_are_whole_and_only_there_where_there_is_something_to_show():
    plain = merges_page(RECORD, SETTINGS, command="", how=[])
    assert set(plain.pictures) == {"less.svg"}
    swept = tuple(figures(f"svd rank={r}", 2.3 - r / 100, x=float(r), series="svd") for r in (5, 10, 80))
    scales = {f"{s}": 2.5 - s / 10 for s in (0.1, 0.3, 0.5, 1, 2, 3)}
    cell = ExperimentCell("k10", 0, "svd", 20, 3.0, True, scales, {}, {}, None, 2.0, 0.9, 0.0, None)
    full = merges_page(replace(RECORD, pooled=RECORD.pooled + swept, cells=(cell,)), SETTINGS, command="", how=[])
    assert set(full.pictures) == {"less.svg", "curve.svg", "scales.svg"} == set(full.alt)
    for picture in full.pictures.values():
        assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_files_are_written_once_and_alike(tmp_path):
    page = ExperimentPage(
        "T", "Q?", "A.", [PageTable(["a"], [["1"]])], ["not much"], ["by hand"], {"x": 1}, "cmd", {"p.svg": "<svg/>"}
    )
    for name in ("one", "two"):
        write_experiment(tmp_path / name, page)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["README.md", "p.svg", "results.json"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_rank_correlation_against_hand_and_with_ties():
    assert rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 5.0]) == pytest.approx(-0.2)
    # Ranks 1.5, 1.5, 3 against 1, 2, 3: covariance 1.5 over the root of 1.5 times 2.
    assert rank_correlation([5.0, 5.0, 9.0], [1.0, 2.0, 3.0]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
