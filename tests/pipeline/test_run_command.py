"""`tclora run` as another program meets it: JSON, dry run, signals, wrong configs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killer import start_forked
from test_run import ENV, small_config

from tclora.cli.app import _status
from tclora.config import load_config
from tclora.errors import ConfigError
from tclora.pipeline.run import run_pipeline

COMMAND = [sys.executable, "-c", "from tclora.cli import main; main()"]


def tclora(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, env=ENV, timeout=300)


def tclora_here(capsys, *words: object) -> subprocess.CompletedProcess:
    """The same entry in this process, without the seconds that starting Python costs."""
    try:
        status = _status([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return subprocess.CompletedProcess(words, status or 0, said.out, said.err)


@pytest.mark.parametrize(
    ("command", "until"), [("encode", "encode"), pytest.param("run", "report", marks=pytest.mark.slow)]
)
def test_the_last_line_of_stdout_is_the_result_as_json(tmp_path, command, until):
    """As a process of its own."""
    done = tclora(command, small_config(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["until"] == until


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    done = tclora_here(capsys, "run", small_config(tmp_path), "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (plan["n_train"], plan["n_clusters"], plan["finished_stages"]) == (42, 2, [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cluster.n_clusters=1000", "n_clusters"),
        ("data.train=[nowhere.jsonl]", "no data file"),
        ("base.path=./nowhere", "base model"),
        ("train.target_modules=[no_such_proj]", "no_such_proj"),
        ("encode.encoder=word2vec", "encode.encoder"),
        ("merge=[{method: tc_lora, weights: [1.0]}]", "1 weights for 2 clusters"),
        ("evaluate.choice_tasks=[{path: nowhere.jsonl}]", "nowhere.jsonl"),
    ],
)
def test_a_wrong_setting_ends_with_status_two_and_no_traceback(tmp_path, capsys, override, said):
    words = ["merge", small_config(tmp_path), "--set", override, "--set", "train.multi_task=false", "--quiet"]
    done = tclora_here(capsys, *words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_with_a_wrong_setting_ends_with_status_two_and_no_traceback(tmp_path):
    done = tclora("merge", small_config(tmp_path), "--set", "data.train=[nowhere.jsonl]", "--quiet")
    assert done.returncode == 2, done.stderr
    assert "no data file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "override",
    [
        "base.path=./nowhere",
        "merge=[{method: tc_lora, weights: [1.0]}]",
        "merge=[{method: nope}]",
        "evaluate.choice_tasks=[{path: nowhere.jsonl}]",
    ],
)
def test_what_can_be_known_at_once_is_refused_before_any_work(tmp_path, override):
    with pytest.raises(ConfigError):
        run_pipeline(load_config(small_config(tmp_path), [override]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_its_status_and_the_run_goes_on_later(tmp_path, number, status):
    # Steps without end, so that the run is not finished when the signal comes.
    train = {"r": 2, "batch_size": 8, "epochs": 10_000, "multi_task": False}
    config = small_config(tmp_path, train=train)
    (tmp_path / "said").mkdir()
    running = start_forked(tmp_path / "run", 0, ["run", str(config)], tmp_path / "said")
    try:
        wait_for(tmp_path / "run" / "encode" / "manifest.json")
        os.kill(running.pid, number)
        running.join(30)
        assert running.exitcode == status
    finally:
        running.kill()
    assert run_pipeline(load_config(config), until="cluster").until == "cluster"


def wait_for(path: Path) -> None:
    for _ in range(2400):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} never came")
