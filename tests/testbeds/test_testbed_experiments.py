"""Experiments of the kinds `planted` and `skills`: from a file to a page, resumable, and refused before any work."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from tclora.config.experiment_planted import PlantConfig
from tclora.errors import ConfigError, UnknownNameError
from tclora.pipeline.experiments.run import load_experiment, plan_experiment, run_experiment
from tclora.testbeds import PlantedSpec

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

PLANTED = """
name: tiny
kind: planted
title: Tiny
question: Does the sum keep private parts?
output: {output}
seeds: [0, 1]
n_bootstrap: 200
adapters: {{n_adapters: 3, d_out: 24, d_in: 20, rank: 2, n_shared: 0, n_modules: 1}}
grids:
  noise: {{noise: [0.0, 0.5]}}
ranks: [2, full]
rivals: [mean]
about: [sum]
contestants:
  mean: {{}}
  sum: {{method: task_arithmetic}}
  tc_lora: {{rank_param: cp_rank}}
stability: {{adapters: {{n_adapters: 3, d_out: 12, d_in: 12, rank: 2, n_shared: 2, spread: 0.7, n_modules: 1}},
  noise: [0.0, 0.3], cp_ranks: [2], sweeps: [5, 60], n_starts: 2}}
"""

SKILLS = """
name: tiny
kind: skills
title: Tiny
question: Does anything run?
output: {output}
seeds: [0]
n_bootstrap: 50
base: {{path: bundled, threads: 1, device: cpu}}
train: {{r: 2, lora_dropout: 0.0, target_modules: attention, batch_size: 2}}
pairs: [{{content: add, format: words}}]
sizes: {{tiny: {{n_content: 8, n_format: 8, steps: 1}}}}
scales: [1.0, 2.0]
n_test: 6
n_choose: 4
n_own: 4
max_new_tokens: 3
rivals: [mean]
about: [tc_lora]
contestants:
  mean: {{}}
  tc_lora: {{params: {{cp_rank: 2}}}}
"""


def load(folder: Path, text: str, *overrides: str):
    path = folder / "experiment.yaml"
    path.write_text(text.format(output=folder / "out"))
    return load_experiment(path, overrides)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    kind, settings = load(folder, PLANTED)
    return folder, kind, settings, run_experiment(kind, settings, command="tclora experiment tiny.yaml")


def figures(page, **wanted):
    return [one for one in page.results["figures"] if all(one[key] == value for key, value in wanted.items())]


def test_planted_settings_are_those_of_what_is_planted():
    assert {field.name: field.default for field in fields(PlantedSpec)} == PlantConfig().model_dump()


def test_a_sum_of_private_parts_keeps_them_all_where_there_is_no_noise(planted):
    cells = (planted[0] / "out" / "work" / "cells.csv").read_text().splitlines()
    mine = [cell for cell in cells if cell.startswith("noise,noise=0.0,") and ",sum,full,keep," in cell]
    # Adapters are float32.
    assert len(mine) == 2
    assert all(float(cell.split(",")[6]) < 1e-6 for cell in mine)


def test_a_rank_below_what_was_planted_loses_and_a_scale_helps(planted):
    page = planted[3].page
    (full,) = figures(page, contestant="mean", rank="full", truth="keep")
    (low,) = figures(page, contestant="mean", rank=2, truth="keep")
    assert full["best_error"]["value"] < low["best_error"]["value"] <= low["error"]["value"]
    (total,) = figures(page, contestant="sum", rank="full", truth="keep")
    assert total["best_error"]["value"] == pytest.approx(full["best_error"]["value"], abs=1e-6)


def test_the_page_begins_with_question_and_answer_and_ends_with_what_it_does_not_show(planted):
    text = (planted[0] / "out" / "README.md").read_text()
    parts = ["**Question.** Does the sum", "**Answer.** Over 2 seeds", "| contestant |", "## CP stability"]
    parts += ["## What this does not show", "tclora experiment tiny.yaml"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert (planted[0] / "out" / "recovery.svg").is_file()
    assert (planted[0] / "out" / "stability.svg").is_file()


def test_cp_stability_falls_with_noise_and_rises_with_sweeps(planted):
    found = {(one["noise"], one["sweeps"]): one for one in planted[3].page.results["stability"]}
    assert found[0.0, 60]["match"] > 0.999
    assert found[0.3, 60]["error"] > found[0.0, 60]["error"]
    assert found[0.0, 5]["error"] >= found[0.0, 60]["error"]


def test_a_second_run_measures_nothing_and_writes_the_same_bytes(planted, monkeypatch):
    folder, kind, settings, _ = planted
    before = (folder / "out" / "results.json").read_bytes()
    for place in ("planted_measure", "planted_stability"):
        monkeypatch.setattr(f"tclora.pipeline.experiments.{place}.plant", lambda *_, **__: pytest.fail("planted again"))
    run_experiment(kind, settings, command="tclora experiment tiny.yaml")
    assert (folder / "out" / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("grids.noise.nois=[0.1]", "varies what planted adapters do not have: nois"),
        ("rivals=[mode]", "rivals names no contestant: mode"),
        ("shown_rank=7", "shown_rank is none of the ranks"),
        ("adapters.overlap=1.0", "less than 1"),
        ("adapters.n_adapters=40", "do not fit"),
        ("contestants.tc_lora.params={cp_rank: 3}", "sets a parameter that is also given"),
        ("contestants.tc_lora.rank_param=rankk", "no parameter 'rankk'"),
    ],
)
def test_a_planted_experiment_that_cannot_be_is_refused_before_any_work(tmp_path, override, text):
    with pytest.raises(ConfigError, match=text):
        kind, settings = load(tmp_path, PLANTED, override)
        plan_experiment(kind, settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("pairs=[{content: lookup, format: words}]", "does not go with"),
        ("pairs=[{content: ad, format: words}]", "did you mean add"),
        ("sizes.tiny.n_format=5000", "too few different questions"),
        ("contestants={mean: {}, base: {method: mean}, tc_lora: {}}", "give the merge another name"),
        ("contestants={mean: {}, tc_lora: {}, regmean: {}}", "merge that learns"),
        ("gap.end=nobody", "gap names no contestant"),
        ("pairs=[{content: add, format: words}, {content: add, format: words}]", "stands twice"),
        ("format_contents={words: [add]}", "is the content of a pair"),
        ("format_contents={json: [lookup]}", "a format of no pair: json"),
        ("format_contents={words: [lookup]}", "does not go with"),
        ("content_formats=[words]", "is the format of a pair"),
    ],
)
def test_a_skills_experiment_that_cannot_be_is_refused_before_any_work(tmp_path, override, text):
    with pytest.raises((ConfigError, UnknownNameError), match=text):
        kind, settings = load(tmp_path, SKILLS, override)
        plan_experiment(kind, settings)
    assert not (tmp_path / "out").exists()


def test_skills_run_from_file_to_page_and_go_on(tmp_path, monkeypatch):
    kind, settings = load(tmp_path, SKILLS)
    result = run_experiment(kind, settings, command="tclora experiment tiny.yaml")
    found = {one["contestant"]: one for one in result.page.results["figures"]}
    assert list(found) == ["base", "content only", "format only", "multi_task", "oracle", "mean", "tc_lora"]
    assert found["mean"]["rank"] == 4
    assert found["mean"]["exact"]["n"] == 6
    assert {one["skill"] for one in result.page.results["alone"]} == {"add", "words"}
    before = (tmp_path / "out" / "results.json").read_bytes()
    # Everything is kept: neither training nor generation is called again.
    monkeypatch.setattr("tclora.pipeline.experiments.losses.score_rows", lambda *_, **__: pytest.fail("asked again"))
    run_experiment(kind, settings, command="tclora experiment tiny.yaml")
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    assert json.loads(before)["answer"] == result.page.answer


@pytest.mark.parametrize("name", ["planted", "skills"])
def test_the_files_in_the_repository_can_be_planned(name):
    kind, settings = load_experiment(EXPERIMENTS / f"{name}.yaml")
    assert plan_experiment(kind, settings)["kind"] == name
