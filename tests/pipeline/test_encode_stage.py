"""The encode stage: streamed, resumed, divided among workers, and the same files whatever happens to it."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from test_run import small_config

from tclora.artifacts import read_manifest
from tclora.cli.run import run_until
from tclora.config import RunConfig, load_config
from tclora.data import read_examples
from tclora.encoding import load_encoder
from tclora.errors import ConfigError, DataError, NumericalError
from tclora.execution import ProcessExecutor, Retries, plan_workers
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Silent
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.data import data_stage
from tclora.pipeline.stages.encode import encode_stage, read_encode_record

RESULTS = ("train.npy", "dev.npy", "encoder/encoder.json", "encoder/encoder.safetensors", "record.json")


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return load_config(small_config(tmp_path))


def encode(config: RunConfig, executor=None, progress=None) -> RunFolder:
    run = RunFolder(Path(config.output))
    told = progress or Silent()
    encode_stage(config, run, data_stage(config, run, told), told, executor)
    return run


def results(run: RunFolder) -> dict[str, bytes]:
    return {name: (run.encode / name).read_bytes() for name in RESULTS}


def texts_of(config: RunConfig, run: RunFolder, part: str) -> list[str]:
    return [example.text(config.encode.text) for example in read_examples(run.data / f"{part}.jsonl")]


def changed(config: RunConfig, **encode_settings) -> RunConfig:
    return config.model_copy(update={"encode": config.encode.model_copy(update=encode_settings)})


def test_the_rows_are_the_encoders_and_the_record_counts_them(config):
    run = encode(config)
    encoder = load_encoder(config.encode, run.encode / "encoder")
    for part in ("train", "dev"):
        rows = np.load(run.encode / f"{part}.npy", mmap_mode="r")
        assert np.array_equal(rows, encoder.encode(texts_of(config, run, part)))
    record = read_encode_record(run)
    assert (record.n_train, record.n_dev, record.d_embed, record.dtype) == (42, 14, 8, "float32")
    assert record.n_bytes == sum((run.encode / f"{part}.npy").stat().st_size for part in ("train", "dev"))
    assert record.texts_per_s is not None and record.texts_per_s > 0
    assert (record.encoder, record.model, record.text) == ("tfidf", None, "instruction_and_input")


def test_the_speed_is_no_part_of_the_result(config):
    run = encode(config)
    assert "texts_per_s" in (run.encode / "record.json").read_text()
    assert json.loads((run.encode / "record.json").read_text())["texts_per_s"] is None
    manifest = read_manifest(run.encode)
    assert manifest is not None and not any(name.startswith("work") for name in manifest.outputs)


def test_nothing_of_the_work_is_left(config):
    run = encode(config)
    files = {path.relative_to(run.encode).as_posix() for path in run.encode.rglob("*") if path.is_file()}
    assert files == {*RESULTS, "manifest.json", "work/pieces.json"}


def test_float16_rows_are_half_the_bytes_and_can_be_clustered(config):
    wide = np.load(encode(config).encode / "train.npy").astype(np.float64)
    half = changed(config, dtype="float16")
    run_pipeline(half, until="cluster")
    run = RunFolder(Path(config.output))
    rows = np.load(run.encode / "train.npy")
    assert rows.dtype == np.float16 and read_encode_record(run).dtype == "float16"
    # An entry below 1 is rounded to 11 bits, so by at most 2**-12.
    assert np.abs(rows.astype(np.float64) - wide).max() <= 2**-12
    assert np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1).max() < 1e-3


def test_what_is_embedded_is_a_setting(config):
    first = results(encode(config))
    run = encode(changed(config, text="instruction"))
    assert read_encode_record(run).text == "instruction"
    assert results(run)["train.npy"] != first["train.npy"]


def test_settings_that_change_no_row_do_not_repeat_the_stage(config):
    run = encode(config)
    before = (run.encode / "manifest.json").read_bytes()
    encode(changed(config, device="cpu"))
    assert (run.encode / "manifest.json").read_bytes() == before


def killed_at(limit: int, config: RunConfig) -> int:
    """Run the stage in a process of its own that is killed, -9, at its `limit`-th change below the stage's folder."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")) and "encode" in str(arguments[0]):
            seen += 1
            if seen == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        encode(config)
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    ("dtype", "step"),
    [("float32", 12), ("float16", 15), pytest.param("float32", 1, marks=pytest.mark.slow)],
)
def test_killed_at_any_change_it_ends_with_the_same_files(tmp_path_factory, dtype, step):
    folder = tmp_path_factory.mktemp("whole")
    config = changed(load_config(small_config(folder)), dtype=dtype)
    expected = results(encode(config))
    killed = 0
    for limit in range(1, 200, step):
        RunFolder(Path(config.output)).clear()
        if killed_at(limit, config) != signal.SIGKILL:
            break
        killed += 1
        assert results(encode(config)) == expected
        assert not list(Path(config.output).rglob("*.partial")) and not list(Path(config.output).rglob("shards"))
    assert killed >= 3  # the stage makes some 40 changes; each of those tried was killed


def test_after_the_matrix_is_made_a_kill_costs_no_embedding(config, monkeypatch):
    """The manifest alone is missing, and nothing is embedded or fitted again."""
    run = encode(config)
    expected = results(run)
    (run.encode / "manifest.json").unlink()
    for name in ("encode_shard", "fit_encoder", "load_encoder"):
        monkeypatch.setattr(f"tclora.pipeline.stages.encode.{name}", lambda *a, **k: pytest.fail("was repeated"))
    assert results(encode(config)) == expected


@pytest.mark.parametrize("how", ["delete", "empty", "flip"])
@pytest.mark.parametrize("name", RESULTS)
def test_a_damaged_file_is_made_again(config, name, how):
    run = encode(config)
    expected = results(run)
    path = run.encode / name
    if how == "delete":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(b"" if how == "empty" else content[:-1] + bytes([content[-1] ^ 1]))
    assert results(encode(config)) == expected


def test_files_of_another_request_are_removed(config):
    run = encode(config)
    (run.encode / "stray.npy").write_bytes(b"x")
    encode(changed(config, dim=4))
    assert not (run.encode / "stray.npy").exists()
    assert read_encode_record(run).d_embed == 4


class Workers:
    """An executor that is not the local one: jobs go through pickling, in an order of its own."""

    def __init__(self):
        self.jobs = []

    workers = 2

    def map(self, function, jobs, *, watcher=None):
        import pickle

        self.jobs += [job.name for job in jobs]
        done = {}
        for index in reversed(range(len(jobs))):
            copied = pickle.loads(pickle.dumps((function, jobs[index])))
            done[index] = pickle.loads(pickle.dumps(copied[0](copied[1])))
        yield from (done[index] for index in range(len(jobs)))

    def as_completed(self, function, jobs, *, watcher=None):
        yield from enumerate(self.map(function, jobs))

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_shards_done_elsewhere_give_the_same_files(config, monkeypatch):
    expected = results(encode(config))
    RunFolder(Path(config.output)).clear()
    monkeypatch.setattr(
        "tclora.pipeline.stages.encode.shard_ranges", lambda n, **_: tuple((a, min(n, a + 10)) for a in range(0, n, 10))
    )
    workers = Workers()
    run = encode(config, workers)
    assert results(run) == expected
    assert workers.jobs == [f"train texts {i}/5" for i in range(1, 6)] + ["dev texts 1/2", "dev texts 2/2"]
    assert not (run.encode / "work" / "shards").exists()


@pytest.mark.slow
def test_worker_processes_give_the_same_files(config):
    expected = results(encode(config))
    RunFolder(Path(config.output)).clear()
    with ProcessExecutor(plan_workers(2, 1, ()), Retries(0)) as executor:
        assert results(encode(config, executor)) == expected


class Told(Silent):
    def __init__(self):
        self.steps = []

    def step(self, label, done, total):
        self.steps.append((label, done, total))


def test_progress_counts_texts_of_each_part(config):
    told = Told()
    encode(config, progress=told)
    assert ("train texts", 0, 42) in told.steps and ("train texts", 42, 42) in told.steps
    assert told.steps[-1] == ("dev texts", 14, 14)


def test_precomputed_rows_are_divided_into_train_and_dev(config, tmp_path):
    given = np.random.default_rng(0).standard_normal((56, 5)).astype(np.float32)
    np.save(tmp_path / "given.npy", given)
    own = changed(config, encoder="precomputed", path=str(tmp_path / "given.npy"))
    run = encode(own)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    rows = np.concatenate([np.load(run.encode / f"{part}.npy") for part in ("train", "dev")])
    assert np.abs(rows - unit).max() < 1e-6  # rounding to float32
    assert len(np.load(run.encode / "dev.npy")) == 14 and not (run.encode / "encoder").exists()
    given[50, 0] = np.nan
    np.save(tmp_path / "given.npy", given)
    with pytest.raises(NumericalError, match=r"given\.npy, row 50"):
        encode(own)
    np.save(tmp_path / "given.npy", given[:40])
    with pytest.raises(DataError, match=r"expected +\(56, d_embed\)"):
        encode(own)
    with pytest.raises(ConfigError, match=r"encode\.path"):
        encode(changed(config, encoder="precomputed"))


def test_precomputed_rows_that_were_copied_before_a_kill_are_not_copied_again(config, tmp_path, monkeypatch):
    np.save(tmp_path / "given.npy", np.random.default_rng(0).standard_normal((56, 5)))
    own = changed(config, encoder="precomputed", path=str(tmp_path / "given.npy"))
    expected = (encode(own).encode / "dev.npy").read_bytes()
    RunFolder(Path(config.output)).clear()
    with monkeypatch.context() as patch:
        patch.setattr("tclora.pipeline.stages.encode.join_shards", lambda *_: pytest.exit("killed here"))
        with pytest.raises(pytest.exit.Exception):
            encode(own)
    begun = list((Path(own.output) / "encode" / "work" / "shards").iterdir())
    assert [path.name for path in begun] == ["train-0-42"]
    stamp = (begun[0] / "rows.npy").stat().st_mtime_ns
    told = Told()
    run = encode(own, progress=told)
    assert (run.encode / "dev.npy").read_bytes() == expected
    assert (run.encode / "train.npy").stat().st_mtime_ns == stamp
    assert [step for step in told.steps if step[0] == "train texts"] == []


def test_a_home_folder_and_variables_in_a_path_are_understood(config, tmp_path, monkeypatch):
    np.save(tmp_path / "given.npy", np.eye(56, 5) + 0.1)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = results_of_matrix(encode(changed(config, encoder="precomputed", path="~/given.npy")))
    np.save(tmp_path / "given.npy", np.eye(56, 5) + 0.2)
    monkeypatch.setenv("WHERE", str(tmp_path))
    assert results_of_matrix(encode(changed(config, encoder="precomputed", path="~/given.npy"))) != first
    assert encode(changed(config, encoder="precomputed", path="$WHERE/given.npy"))


def results_of_matrix(run: RunFolder) -> str:
    return hashlib.sha256((run.encode / "train.npy").read_bytes()).hexdigest()


def test_the_command_ends_with_what_was_embedded_and_how_fast(tmp_path, capsys):
    path = str(small_config(tmp_path))
    run_until(path, "encode", [], as_json=True, quiet=True)
    facts = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert (facts["encoder"], facts["n"], facts["d"], facts["dtype"]) == ("tfidf", 56, 8, "float32")
    # Two headers of 128 bytes, and 4 bytes an entry.
    assert facts["bytes"] == 2 * 128 + 56 * 8 * 4 and facts["texts_per_s"] > 0
    run_until(path, "encode", [], quiet=True)
    said = capsys.readouterr().out
    assert f"56 texts x 8 float32, {facts['bytes']:,} bytes, {facts['texts_per_s']:,} texts/s" in said
