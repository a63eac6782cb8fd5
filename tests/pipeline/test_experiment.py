"""An experiment end to end on a small library: the same figures as by hand, resumed, told as files and on a page."""

import json

import numpy as np
import pytest
import yaml
from experiment_cases import CONTESTANTS, experiment_file
from typer.testing import CliRunner

from tclora.adapters import read_adapter
from tclora.cli.app import app
from tclora.data import read_examples
from tclora.errors import ConfigError, NumericalError, UnknownNameError
from tclora.models import attached, load_base, response_losses, tokenize_example
from tclora.pipeline.experiments import measure as experiment_measure
from tclora.pipeline.experiments.adapter_arithmetic import scaled
from tclora.pipeline.experiments.library import library_config
from tclora.pipeline.experiments.rows import fold_of
from tclora.pipeline.experiments.run import load_experiment, plan_experiment, run_experiment


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    path = experiment_file(folder)
    return path, run_experiment(*load_experiment(path), command=f"tclora experiment {path}")


def pooled(finished) -> dict:
    return {one["contestant"]: one for one in finished[1].page.results["pooled"]}


def test_every_contestant_is_measured_at_every_seed(finished):
    results = finished[1].page.results
    names = {"svd rank=1", "svd rank=4"} | set(CONTESTANTS) - {"svd"}
    assert {one["contestant"] for one in results["pooled"]} == names
    assert {(c["seed"], c["contestant"]) for c in results["cells"]} == {(s, n) for s in (0, 1) for n in names}
    assert results["left_out"] == () or results["left_out"] == []
    assert {one["rank"] for one in results["pooled"] if one["contestant"] in ("svd rank=1", "tsv cut")} == {1, 2}


def test_losses_are_those_of_the_scaled_adapter_on_rows_that_chose_nothing(finished):
    """The best single adapter, scored by hand on the report rows of seed 1."""
    path, _ = finished
    settings = load_experiment(path)[1]
    config = library_config(settings, "k2", 1)
    cell = next(c for c in finished[1].page.results["cells"] if (c["seed"], c["contestant"]) == (1, "best_single"))
    dev = read_examples([f"{config.output}/data/dev.jsonl"])
    rows = [row for row in dev if fold_of(row) == "report"]
    base = load_base(config.base)
    adapter = scaled(read_adapter(f"{config.output}/library/{cell['source']}"), cell["scale"])
    assert 0 < len(rows) <= 10 and len(rows) < len(dev)
    with attached(base, adapter):
        nats, n_tokens = response_losses(base, [tokenize_example(base, row) for row in rows], batch_size=3)
    # Another batch size pads otherwise and moves float32 sums in their last digits.
    assert cell["loss"]["report"]["value"] == pytest.approx(nats.sum() / n_tokens.sum(), rel=1e-5)


def test_differences_gap_and_scales_are_consistent(finished):
    by_name = pooled(finished)
    for one in by_name.values():
        for rival, contrasts in one["less"].items():
            for fold, contrast in contrasts.items():
                expected = one["loss"][fold]["value"] - by_name[rival]["loss"][fold]["value"]
                assert contrast["value"] == pytest.approx(expected, abs=1e-12)
                assert contrast["p"] <= contrast["p_holm"] <= 1
    for cell in finished[1].page.results["cells"]:
        path = {float(scale): value for scale, value in cell["losses_by_scale"].items()}
        if path:
            # Scales are written with six digits.
            assert cell["scale"] == pytest.approx(min(path, key=path.get), rel=1e-5)
        else:
            assert cell["contestant"] in ("base", "routed", "multi_task", "random routed") and cell["scale"] == 1
    # At full rank an SVD of the mean is the mean, so they differ by rounding alone: float32 losses near 1e-6.
    assert abs(by_name["svd rank=4"]["less"]["mean"]["report"]["value"]) < 1e-4
    assert by_name["random_factors"]["norm_to_mean"] == pytest.approx(
        np.mean(by_name["random_factors"]["scales"]), rel=1e-4
    )


def test_groups_and_spectra_cover_all_rows(finished):
    results = finished[1].page.results
    mean = [one for one in results["groups"] if one["contestant"] == "mean"]
    assert sum(one["n_rows"] for one in mean) == results["rows"]["k2"]["report"]
    assert all(one["n_rows"] >= 4 or one["group"] == "others" for one in mean)
    assert len(results["spectra"]) == 4
    for row in results["spectra"]:
        assert 1 <= row["participation"] <= row["effective_rank"] + 1e-9 <= 2 + 1e-6 and 0 < row["family_share"] <= 1


def test_a_second_run_by_the_command_computes_nothing_and_writes_the_same_bytes(finished, monkeypatch):
    path, done = finished
    names = sorted(file.name for file in done.page_folder.iterdir())
    before = {name: (done.page_folder / name).read_bytes() for name in names}
    assert {"README.md", "results.json", "less.svg"} <= set(names)

    def none_left(*_, **__):
        raise AssertionError("a loss was computed again")

    monkeypatch.setattr("tclora.pipeline.experiments.losses.score_rows", none_left)
    again = CliRunner().invoke(app, ["experiment", str(path), "--quiet", "--json"])
    assert json.loads(again.stdout)["answer"] == finished[1].page.answer
    assert before == {name: (done.page_folder / name).read_bytes() for name in names}


def test_the_page_has_question_answer_table_and_limits_in_this_order(finished):
    page = (finished[1].page_folder / "README.md").read_text()
    places = [page.index(part) for part in ("**Question.**", "**Answer.**", "| contestant", "What this does not show")]
    assert places == sorted(places)
    answer = finished[1].page.answer
    assert "2 seeds" in answer and "tc_lora less mean is" in answer and answer.count(". ") == 1
    for part in ("Unseen task families", "Seed by seed", "By group", "spectra", "million parameters"):
        assert part in page


def test_the_command_plans_without_writing(finished, tmp_path):
    path, _ = finished
    plan = CliRunner().invoke(
        app, ["experiment", str(path), "--dry-run", "--json", "--set", f"output={tmp_path / 'x'}"]
    )
    told = json.loads(plan.stdout)
    assert all("(trained)" in row for row in told["libraries"]) and not (tmp_path / "x").exists()


def small_form(path, tmp_path, **changes):
    """The finished experiment's file with one seed and few contestants, in another place."""
    data = yaml.safe_load(path.read_text())
    data |= {"rivals": ["mean"], "about": [], "seeds": [0], "gap": None, "page": None, "spectra": False}
    data |= {"output": str(tmp_path / "out"), **changes}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_experiment(tmp_path / "e.yaml")


def test_what_fails_is_left_out_with_its_reason_and_the_others_go_on(finished, tmp_path, monkeypatch):
    def failing(candidate, one, settings):
        if one.method == "svd":
            raise NumericalError("it did not converge", found="a planted failure")
        return measured(candidate, one, settings)

    measured = experiment_measure._measured
    monkeypatch.setattr(experiment_measure, "_measured", failing)
    run_file = str(finished[0].parent / "run.yaml")
    libraries = {"k2": {"run": run_file, "output": str(finished[0].parent / "libraries" / "{seed}")}}
    contestants = {"base": {"kind": "base"}, "mean": {"scale": 1.0}, "bad": {"method": "svd"}}
    found = run_experiment(*small_form(finished[0], tmp_path, libraries=libraries, contestants=contestants))
    (left,) = found.page.results["left_out"]
    assert left["contestant"] == "bad" and "a planted failure" in left["why"]
    assert {one["contestant"] for one in found.page.results["pooled"]} == {"base", "mean"}
    assert "Left out" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_merge_that_fails_is_left_out_with_its_reason(finished, tmp_path):
    """slerp takes two adapters and nothing is wrong with that here; three random ones it cannot take."""
    path, _ = finished
    run = yaml.safe_load((path.parent / "run.yaml").read_text())
    run["cluster"]["n_clusters"] = 3
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    libraries = {"k3": {"run": "run.yaml", "output": str(tmp_path / "k3-{seed}")}}
    contestants = {"mean": {}, "slerp": {}}
    found = run_experiment(*small_form(path, tmp_path, libraries=libraries, contestants=contestants))
    (left,) = found.page.results["left_out"]
    assert left["contestant"] == "slerp" and "2 adapters" in left["why"].replace("two", "2")
    assert "Left out" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rivals": ["median"]}, "rivals names no contestant: median"),
        ({"about": ["nobody"]}, "about names no contestant: nobody"),
        ({"seeds": [1, 1]}, "a seed stands twice"),
        ({"scales": {"grid": [0.5, 2]}}, "holds 1"),
        ({"rows": {"chose": 3}}, "did you mean 'choose'"),
        ({"contestants": {"mean": {}, "routed": {"kind": "routed", "params": {"a": 1}}}}, "no use for params"),
        ({"contestants": {"mean": {}, "random_factors": {"kind": "random_factors"}}}, "name it"),
        ({"gap": {"start": "mean", "end": "perfect"}}, "gap names no contestant: perfect"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(experiment_file(tmp_path, **changes))


@pytest.mark.parametrize(
    ("contestants", "message"),
    [
        ({"mean": {}, "routed": {"kind": "routed"}, "other": {"method": "meen"}}, "meen"),
        ({"mean": {}, "routed": {"kind": "routed"}, "svd": {"params": {"rnak": 3}}}, "did you mean 'rank'"),
        (
            {"mean": {}, "routed": {"kind": "routed"}, "m": {"method": "lorahub", "weights": "size"}},
            "learns its weights",
        ),
        (
            {"mean": {}, "routed": {"kind": "routed"}, "m": {"method": "distill", "weights": "size"}},
            "'distill' learns its weights",
        ),
    ],
)
def test_wrong_merges_are_refused_before_any_work(tmp_path, contestants, message):
    path = experiment_file(tmp_path, contestants=contestants, about=[], rivals=["mean"])
    kind, settings = load_experiment(path)
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        plan_experiment(kind, settings)
    assert not (tmp_path / "libraries").exists()


def test_a_library_without_the_control_is_refused_before_any_work(tmp_path):
    path = experiment_file(tmp_path)
    library = {"run": "run.yaml", "output": str(tmp_path / "l-{seed}"), "set": {"train.controls": []}}
    kind, settings = load_experiment(path, [f"libraries.k2={json.dumps(library)}"])
    with pytest.raises(ConfigError, match="nothing to make 'random clusters' from"):
        plan_experiment(kind, settings)


def test_the_folder_is_not_the_users_to_set(tmp_path):
    with pytest.raises(ConfigError, match="not a setting"):
        load_experiment(experiment_file(tmp_path), ["folder=/"])


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="no kind of experiment called 'dance'"):
        load_experiment(experiment_file(tmp_path, kind="dance"))
