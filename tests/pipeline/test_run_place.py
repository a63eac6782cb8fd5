"""Where a run may write: a folder of its own. What is not a run's is never replaced or removed."""

import pytest
from test_run import small_config

from tclora.artifacts import folder_lock
from tclora.config import dump_config, load_config
from tclora.errors import ArtifactError, ConfigError, DataError, FolderInUseError, OutputExistsError
from tclora.pipeline.checks.run_place import check_place
from tclora.pipeline.dry_run import plan_run
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.run import run_pipeline


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("taken", ["data/train.jsonl", "library/mine/x", "merge/notes.txt", "report", "config.yaml"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_wrote_is_refused_and_kept(tmp_path, taken, overwrite):
    path = tmp_path / "project" / taken
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    config = load_config(small_config(tmp_path), [f"output={tmp_path / 'project'}"])
    before = tree(tmp_path / "project")
    with pytest.raises(OutputExistsError, match=rf"(?s)no run wrote.*{taken.split('/')[0]}"):
        run_pipeline(config, until="encode", overwrite=overwrite)
    assert tree(tmp_path / "project") == before


def test_the_run_file_itself_is_not_overwritten(tmp_path):
    path = small_config(tmp_path).rename(tmp_path / "config.yaml")
    config = load_config(path, [f"output={tmp_path}"])
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"config\.yaml"):
        run_pipeline(config, until="encode")
    assert path.read_bytes() == before


def test_a_run_that_was_killed_before_its_first_stage_may_go_on(tmp_path):
    config = load_config(small_config(tmp_path))
    run = RunFolder(tmp_path / "run")
    run.encode.mkdir(parents=True)
    (run.encode / "half").touch()
    with pytest.raises(OutputExistsError):
        check_place(run)
    (run.root / "config.yaml").write_text(dump_config(config))
    check_place(run)


@pytest.mark.parametrize(
    "fault", [["merge.0.params.cp_rnk=2"], ["base.path=./nowhere"], ["data.train.0=./nothing*.jsonl"]]
)
def test_overwrite_removes_nothing_where_the_request_is_wrong(tmp_path, fault):
    path = small_config(tmp_path)
    run_pipeline(load_config(path), until="encode")
    before = tree(tmp_path / "run")
    with pytest.raises((ConfigError, DataError)):
        run_pipeline(load_config(path, fault), overwrite=True)
    assert tree(tmp_path / "run") == before


def test_overwrite_removes_nothing_where_the_run_is_in_use(tmp_path):
    config = load_config(small_config(tmp_path))
    run_pipeline(config, until="encode")
    before = tree(tmp_path / "run")
    with folder_lock(tmp_path / "run"), pytest.raises(FolderInUseError):
        run_pipeline(config, overwrite=True)
    assert tree(tmp_path / "run") == before


def test_overwrite_starts_afresh(tmp_path):
    config = load_config(small_config(tmp_path))
    run_pipeline(config, until="encode")
    (tmp_path / "run" / "library").mkdir()
    (tmp_path / "run" / "library" / "old").touch()
    run_pipeline(config, until="encode", overwrite=True)
    assert not (tmp_path / "run" / "library").exists() and (tmp_path / "run" / "encode").is_dir()


@pytest.mark.parametrize("fault", ["base.path=./nowhere", "merge.1.weights=[1.0]", "merge.0.name=base"])
def test_a_dry_run_finds_what_the_run_would(tmp_path, fault):
    path = small_config(tmp_path)
    assert plan_run(load_config(path))["n_clusters"] == 2
    for do in (plan_run, run_pipeline):
        with pytest.raises(ConfigError):
            do(load_config(path, [fault]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["/tmp/victim", "../data", "a/b", "<b>", "", ".hidden"])
def test_the_name_of_a_merge_stays_in_its_folder(tmp_path, name):
    with pytest.raises(ConfigError, match=r"merge\.0\.name"):
        load_config(small_config(tmp_path, merge=[{"method": "mean", "name": name}]))


@pytest.mark.parametrize("name", ["base", "multi-task", "cluster-3", "random-clusters"])
def test_a_merge_has_no_other_contestants_name(tmp_path, name):
    config = load_config(small_config(tmp_path, merge=[{"method": "mean", "name": name}]))
    with pytest.raises(ConfigError, match="name of another contestant"):
        run_pipeline(config)
    assert not (tmp_path / "run").exists()


def test_multiple_choice_files_are_read_before_any_work(tmp_path):
    path = small_config(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "choice.jsonl").write_text((tmp_path / "choice.jsonl").read_text())
    (tmp_path / "bad.jsonl").write_text('{"id": "1"}\n')
    for files, error, said in (
        (("choice.jsonl", "other/choice.jsonl"), ConfigError, "tasks are called 'choice'"),
        (("bad.jsonl",), DataError, "bad.jsonl"),
        (("none.jsonl",), ConfigError, "no such task file"),
    ):
        tasks = ", ".join(f"{{path: {tmp_path / name}}}" for name in files)
        with pytest.raises(error, match=said):
            run_pipeline(load_config(path, [f"evaluate.choice_tasks=[{tasks}]"]))
    assert not (tmp_path / "run").exists()


def test_a_place_that_the_system_refuses_is_named(tmp_path):
    path = small_config(tmp_path)
    (tmp_path / "plain").write_text("a file")
    for output in (tmp_path / "plain", tmp_path / "plain" / "sub"):
        with pytest.raises(ArtifactError, match="could not be written"):
            run_pipeline(load_config(path, [f"output={output}"]), until="encode")
