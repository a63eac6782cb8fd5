"""`tclora analyse` as people and tools call it: terminal, JSON, tables, exit statuses, error text."""

import csv
import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stacks import SHAPES, write_peft

from tclora.analysis import Analysis
from tclora.analysis.write import ANALYSIS_FILES
from tclora.cli.app import _status
from tclora.cli.heat_map import show_heat_map
from tclora.records import from_json

# Factors are stored in float32; cosines are of order one.
FLOAT32 = 1e-6


def tclora(*words: object) -> subprocess.CompletedProcess:
    """The command line in this process: the same entry, without the seconds that starting Python costs."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tclora", *map(str, words)])
        try:
            status = _status([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
    return subprocess.CompletedProcess(words, status or 0, out.getvalue(), err.getvalue())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> tuple[list[Path], list[dict]]:
    """Adapters of different ranks, scales and targets, and their deltas by an independent formula."""
    root = tmp_path_factory.mktemp("library")
    made = {
        "plain": {"r": 3, "lora_alpha": 6},
        "rslora": {"r": 4, "lora_alpha": 16, "use_rslora": True},
        "one": {"r": 2, "leaves": ("mlp.up_proj",)},
    }
    deltas = [write_peft(root / name, s.pop("r"), i, **s) for i, (name, s) in enumerate(made.items())]
    return [root / name for name in made], deltas


@pytest.fixture(scope="module")
def written(library, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("written") / "out"
    done = tclora("analyse", *library[0], "-o", out, "--cp-rank", 3)
    assert done.returncode == 0, done.stderr
    return out


def test_the_terminal_shows_figures_and_two_grids(library):
    done = tclora("analyse", *library[0], "--cp-rank", 3)
    assert done.returncode == 0, done.stderr
    assert "3 adapters, 4 modules" in done.stdout
    assert "CP-STI at 3 terms" in done.stdout
    assert "Mean cosine of two deltas" in done.stdout
    grids = [line.split() for line in done.stdout.split("\n")]
    assert grids.count(["layer", "q_proj", "up_proj", "all"]) == 2
    assert [line[0] for line in grids if line and line[0] in ("0", "1")] == ["0", "1"] * 2
    assert "\x1b" not in done.stdout


def test_without_an_output_nothing_is_written(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tclora("analyse", *library[0], "--cp-rank", 0).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_json_line_holds_everything_but_pairs_of_modules(library):
    done = tclora("analyse", *library[0], "--cp-rank", 3, "--json", "--quiet")
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert {"adapters", "n_modules", "cp_rank", "total", "cells", "pairs", "modules", "out", "wall_s"} <= set(result)
    assert sorted(result["adapters"]) == ["one", "plain", "rslora"]
    assert len(result["modules"]) == 4
    assert all(m["cp"]["sti_ratio"] >= 0 and "pairs" not in m for m in result["modules"])


def test_no_cp_model_is_fitted_for_rank_zero(library):
    done = tclora("analyse", *library[0], "--cp-rank", 0, "--json", "--quiet")
    result = json.loads(done.stdout)
    assert result["cp_rank"] is None
    assert result["total"]["cp_sti_ratio"] is None
    assert all(m["cp"] is None for m in result["modules"])
    assert "CP-STI" not in tclora("analyse", *library[0], "--cp-rank", 0).stdout


def test_the_curve_is_fitted_on_demand(library):
    done = tclora("analyse", *library[0], "--cp-rank", 3, "--curve", "--json", "--quiet")
    curve = json.loads(done.stdout)["modules"][0]["curve"]
    assert [point["cp_rank"] for point in curve] == [1, 2, 3, 5]
    assert all(point["fit"] is not None for point in curve)


def test_the_folder_holds_json_tables_and_a_page(written):
    assert sorted(path.name for path in written.iterdir()) == list(ANALYSIS_FILES)
    page = (written / "README.md").read_text()
    for name in ("modules.csv", "pairs.csv", "adapters.csv"):
        assert all(f"| `{column}` |" in page for column in rows_of(written / name)[0])
    assert "tclora analyse" in page


def test_the_json_file_is_read_back_as_the_record(written):
    data = json.loads((written / "analysis.json").read_text())
    analysis = from_json(Analysis, data)
    assert analysis.n_modules == len(analysis.modules) == 4
    assert analysis.modules[0].cp.n_terms == 3
    assert [pair.first for pair in analysis.pairs] == [pair["first"] for pair in data["pairs"]]


def test_the_json_file_has_a_line_for_each_module(written):
    lines = (written / "analysis.json").read_text().splitlines()
    modules = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"module"')]
    assert [m["module"] for m in modules] == [m["module"] for m in json.loads("\n".join(lines))["modules"]]
    assert len(modules) == 4


def test_the_tables_hold_what_the_json_holds(written):
    analysis = from_json(Analysis, json.loads((written / "analysis.json").read_text()))
    modules = rows_of(written / "modules.csv")
    assert [float(row["sti_ratio"]) for row in modules] == [m.sti_ratio for m in analysis.modules]
    assert [float(row["cp_sti_ratio"]) for row in modules] == [m.cp.sti_ratio for m in analysis.modules]
    assert len(rows_of(written / "adapters.csv")) == 4 * 3
    assert len(rows_of(written / "pairs.csv")) == 4 * 3 + 3


def test_cosines_equal_those_of_the_formula_of_the_files(library, written):
    """From folder to table: rank, alpha and rsLoRA read by an independent formula, an absent module left empty."""
    folders, deltas = library
    known = dict(zip((folder.name for folder in folders), deltas, strict=True))
    rows = {(row["module"], frozenset((row["first"], row["second"]))): row for row in rows_of(written / "pairs.csv")}
    modules = sorted(set().union(*deltas))
    assert len(rows) == (len(modules) + 1) * 3
    for name in modules:
        for one, two in combinations(known, 2):
            x, y = known[one].get(name), known[two].get(name)
            found = rows[name, frozenset((one, two))]["cosine"]
            if x is None or y is None:
                assert found == ""
            else:
                assert float(found) == pytest.approx(float((x * y).sum() / x.norm() / y.norm()), abs=FLOAT32)
    flat = {k: torch.cat([d.get(n, torch.zeros(0)).flatten() for n in modules]) for k, d in known.items()}
    x, y = flat["plain"], flat["rslora"]
    whole = rows["", frozenset(("plain", "rslora"))]["cosine"]
    assert float(whole) == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=FLOAT32)


def test_the_order_of_the_adapters_changes_no_byte(library, written, tmp_path):
    out = tmp_path / "out"
    assert tclora("analyse", *library[0][::-1], "-o", out, "--cp-rank", 3).returncode == 0
    for name in set(ANALYSIS_FILES) - {"README.md"}:
        assert (out / name).read_bytes() == (written / name).read_bytes()


def test_an_existing_output_is_refused_and_an_analysis_may_be_replaced(library, tmp_path):
    words = ["analyse", library[0][0], "-o", tmp_path / "out", "--cp-rank", 0]
    (tmp_path / "out").mkdir()
    assert tclora(*words).returncode == 0
    again = tclora(*words)
    assert again.returncode == 2
    assert "the output exists" in again.stderr
    assert tclora(*words, "--overwrite").returncode == 0


def test_overwrite_never_replaces_what_is_no_analysis(library, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(library[0][0], adapter)
    done = tclora("analyse", *library[0], "-o", adapter, "--overwrite")
    assert done.returncode == 2
    assert "not an analysis alone" in done.stderr
    assert (adapter / "adapter_model.safetensors").exists()


def test_adapters_of_one_name_are_told_apart_by_their_folders(library, tmp_path):
    for place in ("x", "y"):
        shutil.copytree(library[0][0], tmp_path / place / "lora")
    done = tclora("analyse", tmp_path / "x" / "lora", tmp_path / "y" / "lora", "--cp-rank", 0, "--json", "--quiet")
    result = json.loads(done.stdout)
    assert sorted(result["adapters"]) == [str(tmp_path / "x" / "lora"), str(tmp_path / "y" / "lora")]
    assert result["pairs"][0]["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("cp_rank", [3, 8, 100_000])
def test_equal_adapters_have_no_interference_of_components(library, tmp_path, n, cp_rank):
    """Whatever more components there are than one adapter needs; a hundred thousand take no more memory than enough."""
    copies = [shutil.copytree(library[0][0], tmp_path / f"copy-{i}") for i in range(n)]
    done = tclora("analyse", *copies, "--cp-rank", cp_rank, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)["modules"]
    for module in modules.values() if isinstance(modules, dict) else modules:
        assert module["cp"]["sti_ratio"] == pytest.approx(0, abs=1e-9)
        assert module["cp"]["fit"] == pytest.approx(1, abs=1e-6)


def test_what_comes_into_being_at_the_output_meanwhile_is_spared(library, tmp_path, monkeypatch):
    from tclora.pipeline import analyse_folders as door

    fill = door.fill_analysis_folder

    def meanwhile(analysis, staging, **about):
        (tmp_path / "out" / "mine").mkdir(parents=True, exist_ok=True)
        fill(analysis, staging, **about)

    monkeypatch.setattr(door, "fill_analysis_folder", meanwhile)
    for words in ([], ["--overwrite"]):
        done = tclora("analyse", *library[0], "-o", tmp_path / "out", *words)
        assert done.returncode == 2
        assert (tmp_path / "out" / "mine").is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cp-rank", "-1"], "'cp_rank' of an analysis is too small"),
        (["--sweeps", "0"], "'max_iter' of an analysis is too small"),
        (["--seed", "-3"], "'seed' of an analysis is too small"),
        (["nowhere"], "nowhere"),
    ],
)
def test_a_wrong_request_ends_with_status_two_and_writes_nothing(library, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = tclora("analyse", *library[0], *words, "-o", "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_named_twice_is_refused(library):
    done = tclora("analyse", library[0][0], library[0][1], library[0][0])
    assert done.returncode == 2
    assert "named twice" in done.stderr


def test_a_broken_adapter_is_refused_by_name(library, tmp_path):
    shutil.copytree(library[0][0], tmp_path / "bad")
    config = tmp_path / "bad" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    done = tclora("analyse", library[0][1], tmp_path / "bad", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "bad" in done.stderr
    assert not (tmp_path / "out").exists()


def test_other_bases_are_warned_about_by_name(library, tmp_path):
    shutil.copytree(library[0][0], tmp_path / "stranger")
    config = tmp_path / "stranger" / "adapter_config.json"
    config.write_text(config.read_text().replace("org/base", "org/other"))
    done = tclora("analyse", library[0][1], tmp_path / "stranger", "--cp-rank", 0, "--quiet")
    assert done.returncode == 0
    assert "org/other" in done.stderr


def write_base(folder: Path, n_layers: int) -> Path:
    """The headers of a base that the adapters of `library` fit, with some more layers perhaps."""
    tensors = {
        f"model.layers.{n}.{leaf}.weight": torch.zeros(shape) for n in range(n_layers) for leaf, shape in SHAPES.items()
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_layers_of_the_base_without_an_adapter_are_told(library, tmp_path):
    base = write_base(tmp_path / "base", 3)
    done = tclora("analyse", *library[0], "--base", base, "--cp-rank", 0, "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    assert "in layers 0, 1, and the base also in layer 2" in done.stderr
    notes = json.loads(done.stdout)["notes"]
    assert notes == sorted(notes)
    assert any(note.startswith("rslora has ") for note in notes)
    whole = tclora("analyse", *library[0], "--base", write_base(tmp_path / "whole", 2), "--cp-rank", 0, "--json")
    assert json.loads(whole.stdout)["notes"] == []


def test_merge_tells_the_same_layers(library, tmp_path):
    base = write_base(tmp_path / "base", 3)
    done = tclora("merge", *library[0], "-o", tmp_path / "out", "--method", "mean", "--base", base, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "in layers 0, 1, and the base also in layer 2" in done.stderr


def test_a_base_that_lacks_a_layer_of_the_adapters_is_refused(library, tmp_path):
    done = tclora("analyse", *library[0], "--base", write_base(tmp_path / "base", 1), "--cp-rank", 0)
    assert done.returncode == 2
    assert "is not in the base" in done.stderr


def test_a_base_known_by_its_id_is_compared_by_name(library):
    done = tclora("analyse", *library[0], "--base", "org/base", "--cp-rank", 0, "--quiet")
    assert done.returncode == 0
    assert done.stderr == "note: org/base is no folder on this machine: the adapters are compared with its name alone\n"
    done = tclora("analyse", *library[0], "--base", "org/other", "--cp-rank", 0, "--quiet")
    assert done.returncode == 0
    assert "plain names the base org/base, not org/other" in done.stderr


def test_a_folder_that_is_not_there_is_no_id(library):
    done = tclora("analyse", *library[0], "--base", "./nowhere/base", "--cp-rank", 0)
    assert done.returncode == 2
    assert "config.json" in done.stderr


def test_a_terminal_gets_colors(monkeypatch):
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out)
    show_heat_map("Title", ["0", "1"], ["q"], {("0", "q"): 0.25, ("1", "q"): -0.0})
    assert "\x1b[" in out.getvalue()
    assert "0.250" in out.getvalue()
    assert "-0.000" not in out.getvalue()
