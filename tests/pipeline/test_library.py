"""A library as a thing one can make, look at, rename in and remove from, with nothing half done."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from killer import forked
from library_cases import Heard, trained_run, tree
from safetensors.torch import load_file, save_file
from stacks import random_adapter

from tclora.adapters import write_adapter
from tclora.cli.app import _status
from tclora.errors import (
    AdapterError,
    AdapterMismatchError,
    ArtifactError,
    ConfigError,
    OutputExistsError,
    UnknownNameError,
)
from tclora.pipeline.libraries.edit import list_library, remove_adapter, rename_adapter, show_adapter
from tclora.pipeline.libraries.import_folders import ImportRequest, import_library
from tclora.pipeline.libraries.index import open_library
from tclora.pipeline.stages.trainer_losses import losses_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return trained_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def made(tmp_path) -> list[Path]:
    """Two adapters of one shape, and what other trainers leave beside them."""
    folders = [tmp_path / "made" / name for name in ("cluster-0", "cluster-1")]
    for seed, folder in enumerate(folders):
        write_adapter(random_adapter(folder.name, 4, seed), folder)
        (folder / "optimizer.pt").write_bytes(b"large")
    return folders


def imported(sources, out: Path, told=None, **wanted):
    return import_library(ImportRequest(tuple(map(str, sources)), str(out), **wanted), told)


def names(folder: Path) -> list[str]:
    return [row.name for row in list_library(folder)]


def test_a_run_folder_is_a_library_as_it_stands(run):
    before = tree(run)
    rows = list_library(run)
    assert [(row.name, row.cluster, row.ranks, row.state) for row in rows] == [
        ("cluster-0", 0, (2,), "whole"),
        ("cluster-1", 1, (2,), "whole"),
    ]
    assert all(row.n_examples and row.dev_loss for row in rows)
    assert tree(run) == before


def test_show_tells_the_clusters_words_and_tasks(run):
    facts = show_adapter(run, "cluster-1")
    record = json.loads((run / "cluster" / "record.json").read_text())["clusters"][1]
    assert facts["cluster"]["top_terms"] == record["top_terms"]
    assert facts["training"]["n_steps"] == 1
    assert facts["targets"] == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_renaming_moves_no_file_and_no_cluster(run):
    before = tree(run)
    rename_adapter(run, "cluster-1", "dates")
    after = tree(run)
    assert {name: content for name, content in after.items() if name != "library.json"} == before
    assert [(row.name, row.cluster) for row in list_library(run)] == [("cluster-0", 0), ("dates", 1)]
    assert show_adapter(run, "dates")["cluster"]["index"] == 1


def test_removing_from_a_run_leaves_the_files_that_the_run_owns(run):
    assert remove_adapter(run, "cluster-0") is False
    assert (run / "library/cluster-0/adapter_model.safetensors").is_file()
    assert [(row.name, row.cluster) for row in list_library(run)] == [("cluster-1", 1)]


def test_removing_from_an_import_removes_the_files(made, tmp_path):
    library = imported(made, tmp_path / "lib")
    assert remove_adapter(library.root, "cluster-0") is True
    assert not (tmp_path / "lib/library/cluster-0").exists()
    assert names(tmp_path / "lib") == ["cluster-1"]


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("cluster-0", "cluster-1", ConfigError, "one name"),
        ("cluster-0", "a/b", ConfigError, "cannot be an adapter's name"),
        ("cluster-0", "../x", ConfigError, "cannot be an adapter's name"),
        ("cluster-0", "multi-task", ConfigError, "cannot be an adapter's name"),
        ("nobody", "x", UnknownNameError, "no adapter 'nobody'"),
    ],
)
def test_a_bad_name_is_refused(run, old, new, error, said):
    with pytest.raises(error, match=said):
        rename_adapter(run, old, new)
    assert not (run / "library.json").exists()


def test_the_last_adapter_is_not_removed(made, tmp_path):
    imported(made[:1], tmp_path / "lib")
    with pytest.raises(ConfigError, match="at least one adapter"):
        remove_adapter(tmp_path / "lib", "cluster-0")


def test_what_is_no_library_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no library"):
        list_library(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        list_library(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable JSON"),
        ("[]", "not a JSON object"),
        ('{"format": 99, "adapters": []}', "another release"),
        ('{"format": 1, "adapters": [], "surprise": 1}', "unknown fields"),
        ('{"format": 1, "adapters": 3}', "cannot be read"),
        ('{"format": 1}', "cannot be read"),
    ],
)
def test_a_damaged_index_is_an_error_and_not_another_library(run, content, said):
    (run / "library.json").write_text(content)
    with pytest.raises(ArtifactError, match=said):
        list_library(run)


def test_an_unfinished_run_is_no_library_yet(run):
    (run / "library/manifest.json").unlink()
    with pytest.raises(ArtifactError, match="not finished training"):
        list_library(run)


def test_a_changed_and_a_missing_adapter_are_listed_as_such(made, tmp_path):
    imported(made, tmp_path / "lib")
    path = tmp_path / "lib/library/cluster-0/adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)
    (tmp_path / "lib/library/cluster-1/adapter_model.safetensors").unlink()
    assert [row.state for row in list_library(tmp_path / "lib")] == ["changed", "missing"]
    with pytest.raises(ArtifactError, match="'cluster-0' is changed"):
        open_library(tmp_path / "lib").check_whole()


def test_an_import_holds_the_two_files_of_each_byte_for_byte(made, tmp_path):
    imported(made, tmp_path / "lib")
    for folder in made:
        there = tree(tmp_path / "lib" / "library" / folder.name)
        assert set(there) == {"adapter_config.json", "adapter_model.safetensors"}
        assert all(content == (folder / name).read_bytes() for name, content in there.items())


def test_names_are_given_with_an_equals_sign(made, tmp_path):
    imported([f"maths={made[0]}", made[1]], tmp_path / "lib")
    assert names(tmp_path / "lib") == ["maths", "cluster-1"]


def test_a_path_with_an_equals_sign_is_a_path(made, tmp_path):
    odd = made[0].rename(tmp_path / "a=b")
    with pytest.raises(ConfigError, match="cannot be an adapter's name"):
        imported([odd], tmp_path / "lib")
    imported([f"fine={odd}"], tmp_path / "lib")


def test_what_the_merger_refuses_is_refused_here(made, tmp_path):
    config = made[1] / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(AdapterError, match="'cluster-1' cannot be merged"):
        imported(made, tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_nan_is_found_on_import(made, tmp_path):
    path = made[0] / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, path)
    with pytest.raises(AdapterError, match="'cluster-0' cannot be merged"):
        imported(made, tmp_path / "lib")


def test_adapters_of_other_shapes_are_refused(made, tmp_path, run):
    with pytest.raises(AdapterMismatchError, match="cannot be merged at"):
        other = tmp_path / "other"
        wide = random_adapter("other", 2, 5)
        from tclora.adapters import LoraFactors, make_adapter

        factors = {
            path: LoraFactors(torch.cat([f.lora_a, f.lora_a], dim=1), f.lora_b) for path, f in wide.modules.items()
        }
        write_adapter(make_adapter("other", factors), other)
        imported([*made, other], tmp_path / "lib")


@pytest.mark.parametrize("sources", [[0, 0], ["x=0", "y=0"]])
def test_one_folder_or_name_twice_is_refused(made, tmp_path, sources):
    given = [str(s).replace("0", str(made[0])) for s in sources]
    with pytest.raises(ConfigError, match=r"twice|one name"):
        imported(given, tmp_path / "lib")


def test_an_existing_output_is_refused_and_added_to_on_demand(made, tmp_path):
    imported(made[:1], tmp_path / "lib")
    with pytest.raises(OutputExistsError, match="--add"):
        imported(made[1:], tmp_path / "lib")
    before = tree(tmp_path / "lib/library/cluster-0")
    imported(made[1:], tmp_path / "lib", add=True)
    assert names(tmp_path / "lib") == ["cluster-0", "cluster-1"]
    assert tree(tmp_path / "lib/library/cluster-0") == before


def as_export(run: Path, folder: Path, done: tuple[str, ...]) -> Path:
    """An export as `tclora export-jobs` leaves it, with the adapters of the run in place of another trainer's."""
    jobs = [{"name": f"cluster-{i}", "cluster": i, "folder": f"adapters/cluster-{i}"} for i in (0, 1)]
    folder.mkdir()
    (folder / "export.json").write_text(json.dumps({"format": 1, "run": str(run), "adapters": jobs}))
    for name in done:
        shutil.copytree(run / "library" / name, folder / "adapters" / name)
        (folder / "adapters" / name / "record.json").unlink()
        (folder / "adapters" / name / "all_results.json").write_text('{"train_loss": 1.5, "eval_loss": 1.25}')
    return folder


def test_an_export_becomes_a_library_with_the_clusters_of_its_run(run, tmp_path):
    told = Heard()
    imported([as_export(run, tmp_path / "export", ("cluster-0", "cluster-1"))], tmp_path / "lib", told)
    assert any("export's run" in note for note in told.notes)
    facts = show_adapter(tmp_path / "lib", "cluster-0")
    assert facts["cluster"] == show_adapter(run, "cluster-0")["cluster"]
    assert (facts["training"]["train_loss"], facts["training"]["dev_loss"]) == (1.5, 1.25)
    assert (tmp_path / "lib/encode/encoder/encoder.json").is_file()


def test_an_export_that_is_not_trained_through_is_refused_by_name(run, tmp_path):
    export = as_export(run, tmp_path / "export", ("cluster-0",))
    with pytest.raises(AdapterError, match="no adapter for cluster-1"):
        imported([export], tmp_path / "lib")


def test_clusters_without_an_adapter_are_told(run, tmp_path):
    told = Heard()
    imported([run / "library/cluster-1"], tmp_path / "lib", told, clusters=str(run / "cluster"))
    assert any("no adapter for cluster-0" in note for note in told.notes)
    assert [(row.name, row.cluster) for row in list_library(tmp_path / "lib")] == [("cluster-1", 1)]


def test_a_name_that_is_no_cluster_is_refused_where_clusters_are_given(run, tmp_path):
    with pytest.raises(ConfigError, match="which cluster 'maths' belongs to"):
        imported([f"maths={run / 'library/cluster-0'}"], tmp_path / "lib", clusters=str(run / "cluster"))


def test_a_cluster_has_one_adapter(run, tmp_path):
    imported([run / "library/cluster-0"], tmp_path / "lib", clusters=str(run / "cluster"))
    rename_adapter(tmp_path / "lib", "cluster-0", "first")
    with pytest.raises(ConfigError, match="a cluster has one adapter"):
        imported([f"cluster-0={run / 'library/cluster-1'}"], tmp_path / "lib", add=True)
    assert names(tmp_path / "lib") == ["first"]


STATE = '{"log_history": [{"loss": 3.0}, {"eval_loss": 2.5}]}'


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, (None, None)),
        ({"all_results.json": '{"train_loss": 2, "eval_loss": "x"}'}, (2.0, None)),
        (
            {"all_results.json": "{", "trainer_state.json": '{"log_history": [{"loss": 3.0}, {"eval_loss": 2.5}]}'},
            (3.0, 2.5),
        ),
        ({"checkpoint-9/trainer_state.json": '{"log_history": [{"loss": 1.0}]}'}, (1.0, None)),
        ({"trainer_state.json": '{"log_history": 7}'}, (None, None)),
        ({"all_results.json": '{"train_loss": NaN}'}, (None, None)),
        ({"all_results.json": '{"train_loss": true}'}, (None, None)),
    ],
)
def test_losses_are_read_where_a_trainer_left_them(tmp_path, files, found):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert losses_of(tmp_path) == found


def test_the_newest_checkpoint_counts(tmp_path):
    for step, loss in (("5", 4.0), ("20", 1.0), ("9", 2.0)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(json.dumps({"log_history": [{"loss": loss}]}))
    assert losses_of(tmp_path) == (1.0, None)


def test_a_kill_between_index_and_files_leaves_no_name_without_files(made, tmp_path, monkeypatch):
    imported(made, tmp_path / "lib")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tclora.pipeline.libraries.edit.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_adapter(tmp_path / "lib", "cluster-0")
    assert [(row.name, row.state) for row in list_library(tmp_path / "lib")] == [("cluster-1", "whole")]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["rename", "cluster-0", "other"], ["remove", "cluster-0"]])
def test_killed_at_any_change_the_library_is_the_old_or_the_new(made, tmp_path, words):
    imported(made, tmp_path / "lib")
    old = names(tmp_path / "lib")
    verb, *rest = words
    outcomes = set()
    for limit in (1, 3, 5, 50):
        copy = Path(shutil.copytree(tmp_path / "lib", tmp_path / f"lib-{limit}"))
        forked(copy, limit, "library", verb, str(copy), *rest)
        rows = list_library(copy)
        assert all(row.state == "whole" for row in rows)
        outcomes.add(tuple(row.name for row in rows))
    new = ("other", "cluster-1") if verb == "rename" else ("cluster-1",)
    assert outcomes == {tuple(old), new}


def command(*words: object, capsys) -> dict:
    with pytest.raises(SystemExit) as stop:
        _status(["library", *map(str, words), "--json"])
    assert not stop.value.code
    return json.loads(capsys.readouterr().out)


def test_the_commands_speak_json(made, tmp_path, capsys):
    lib = tmp_path / "lib"
    assert len(command("import", *made, "-o", lib, "--quiet", capsys=capsys)["adapters"]) == 2
    assert command("list", lib, capsys=capsys)["adapters"][0]["name"] == "cluster-0"
    assert command("show", lib, "cluster-0", capsys=capsys)["n_modules"] == 4
    assert command("rename", lib, "cluster-0", "a", capsys=capsys)["new"] == "a"
    assert command("remove", lib, "a", capsys=capsys)["files_removed"] is True


@pytest.mark.parametrize("words", [["list"], ["show", "cluster-1"]])
def test_the_tables_print(run, capsys, words):
    with pytest.raises(SystemExit) as stop:
        _status(["library", words[0], str(run), *words[1:]])
    assert not stop.value.code
    assert "cluster-1" in capsys.readouterr().out
