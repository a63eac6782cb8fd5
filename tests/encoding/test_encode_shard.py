"""Shards: the rows of every text in its place, the same bytes however often it was killed, damaged or divided."""

import hashlib
import json
import os
import pickle
import signal
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from made_texts import HashEncoder, expected_rows, job_of, made_texts

from tclora.artifacts import folder_lock
from tclora.config import EncodeConfig
from tclora.data import Example, write_examples
from tclora.encoding import EncodeJob, ShardRecord, encode_shard, fit_encoder, join_shards, save_encoder, shard_ranges
from tclora.encoding.sources import length_batches
from tclora.errors import ArtifactError, DataError, NumericalError
from tclora.execution.watch import telling

N = 47


def rows_of(record: ShardRecord) -> np.ndarray:
    return np.load(record.rows_file, allow_pickle=False)


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def often(monkeypatch):
    """Commit after every batch, not every ten seconds."""
    monkeypatch.setattr("tclora.encoding.shard.COMMIT_S", 0.0)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 1000])
def test_every_row_is_that_of_its_text(tmp_path, batch_size):
    record = encode_shard(job_of(tmp_path, N), encoder=HashEncoder(batch_size=batch_size))
    assert np.array_equal(rows_of(record), expected_rows(made_texts(N)))
    assert (record.n_rows, record.d_embed, record.dtype, len(record.chunk_crcs)) == (N, 6, "float32", 5)


def test_the_file_is_byte_for_byte_what_numpy_saves(tmp_path):
    record = encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    np.save(tmp_path / "saved.npy", expected_rows(made_texts(N)))
    assert digest(record.rows_file) == digest(tmp_path / "saved.npy")


def test_float16_rows_are_the_nearest_and_of_unit_length(tmp_path):
    record = encode_shard(job_of(tmp_path, N, config=EncodeConfig(dtype="float16")), encoder=HashEncoder())
    rows = rows_of(record)
    assert rows.dtype == np.float16
    assert np.array_equal(rows, expected_rows(made_texts(N)).astype(np.float16))
    # Half a unit in the last of 11 bits, 2**-11, bounds the relative error of an entry and so of the length.
    assert np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1).max() <= 2**-11


def test_batches_hold_texts_of_like_length_and_every_text_once():
    texts = made_texts(100)
    batches = length_batches(texts, 7)
    assert sorted(index for batch in batches for index in batch) == list(range(100))
    spans = sorted(((min(ls), max(ls)) for ls in ([len(texts[i]) for i in batch] for batch in batches)), reverse=True)
    assert all(high[0] >= low[1] for high, low in pairwise(spans))
    assert max(map(len, texts)) == len(texts[batches[0][0]])
    assert length_batches([], 7) == [] and length_batches(["a"], 7) == [[0]]


def test_no_call_holds_more_texts_than_a_batch_and_no_chunk_is_read_twice(tmp_path):
    encoder = HashEncoder(batch_size=4)
    encode_shard(job_of(tmp_path, N), encoder=encoder)
    assert max(encoder.calls) == 4 and sum(encoder.calls) == N


@pytest.mark.parametrize("fail_after", range(0, 19))
def test_stopped_after_any_batch_it_goes_on_and_gives_the_same_bytes(tmp_path, often, fail_after):
    whole = encode_shard(job_of(tmp_path, N, out=str(tmp_path / "whole")), encoder=HashEncoder())
    stopped, again = HashEncoder(fail_after=fail_after), HashEncoder()
    job = job_of(tmp_path, N)
    with pytest.raises(KeyboardInterrupt):
        encode_shard(job, encoder=stopped)
    record = encode_shard(job, encoder=again)
    assert digest(record.rows_file) == digest(whole.rows_file)
    # Four chunks of 4 batches and one of 3: what was committed is not embedded twice.
    assert (len(stopped.calls), len(again.calls)) == (fail_after, 19 - fail_after)


def test_a_finished_shard_embeds_nothing(tmp_path):
    first = encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    assert encode_shard(job_of(tmp_path, N), encoder=HashEncoder(fail_after=0)) == first


def killed_at(limit: int, job: EncodeJob) -> int:
    """Embed in a process of its own that is killed, -9, at its `limit`-th change on disk; its wait status."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    seen, write = 0, os.pwrite

    def count(half: Callable[[], object] = lambda: None) -> None:
        nonlocal seen
        seen += 1
        if seen == limit:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def torn(descriptor, data, at):
        count(lambda: write(descriptor, bytes(data)[: len(data) // 2], at))
        return write(descriptor, data, at)

    def watch(event, arguments):
        if event in ("os.rename", "os.remove") or (event == "open" and "shard" in str(arguments[0])):
            count()

    os.pwrite = torn
    sys.addaudithook(watch)
    try:
        encode_shard(job, encoder=HashEncoder())
    finally:
        os._exit(0 if seen < limit else 1)


def test_killed_again_and_again_at_any_write_it_gives_the_same_bytes(tmp_path, often):
    whole = encode_shard(job_of(tmp_path, N, out=str(tmp_path / "whole")), encoder=HashEncoder())
    statuses = [killed_at(limit, job_of(tmp_path, N)) for limit in range(1, 30, 2)]
    # Each died where it was meant to, until so much was done that fewer changes were left.
    assert statuses[:8] == [signal.SIGKILL] * 8
    assert killed_at(10_000, job_of(tmp_path, N)) == 0
    assert digest(tmp_path / "shard" / "rows.npy") == digest(whole.rows_file)
    assert sorted(path.name for path in (tmp_path / "shard").iterdir()) == ["progress.json", "rows.npy"]


@pytest.mark.parametrize("limit", range(2, 80, 6))
def test_killed_once_at_any_write_it_gives_the_same_bytes(tmp_path, often, limit):
    assert killed_at(limit, job_of(tmp_path, N)) == signal.SIGKILL
    assert np.array_equal(
        rows_of(encode_shard(job_of(tmp_path, N), encoder=HashEncoder())), expected_rows(made_texts(N))
    )


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "flip":
        middle = len(content) * 3 // 4
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes(b"" if how == "empty" else content[: len(content) // 2])


@pytest.mark.parametrize("how", ["delete", "empty", "halve", "flip"])
@pytest.mark.parametrize("name", ["rows.npy", "progress.json"])
@pytest.mark.parametrize("fail_after", [9, 10, None])
def test_damage_between_two_attempts_is_found_and_mended(tmp_path, often, how, name, fail_after):
    whole = encode_shard(job_of(tmp_path, N, out=str(tmp_path / "whole")), encoder=HashEncoder())
    if fail_after is None:
        encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    else:
        with pytest.raises(KeyboardInterrupt):
            encode_shard(job_of(tmp_path, N), encoder=HashEncoder(fail_after=fail_after))
    damage(tmp_path / "shard" / name, how)
    record = encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    assert digest(record.rows_file) == digest(whole.rows_file)
    assert record.chunk_crcs == whole.chunk_crcs


@pytest.mark.parametrize("changes", [{"key": "other"}, {"config": EncodeConfig(dtype="float16")}, {"chunk_rows": 20}])
def test_rows_of_another_request_are_not_kept(tmp_path, changes):
    encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    again = HashEncoder()
    encode_shard(job_of(tmp_path, N, **changes), encoder=again)
    assert sum(again.calls) == N


def test_rows_of_another_width_are_not_kept(tmp_path, often):
    with pytest.raises(KeyboardInterrupt):
        encode_shard(job_of(tmp_path, N), encoder=HashEncoder(fail_after=6))
    record = encode_shard(job_of(tmp_path, N), encoder=HashEncoder(d_embed=5))
    assert np.array_equal(rows_of(record), expected_rows(made_texts(N), 5))


def test_progress_counts_rows_and_begins_where_it_stopped(tmp_path, often):
    told: list[tuple[str, int, int]] = []
    with telling(lambda *words: told.append(words)):
        with pytest.raises(KeyboardInterrupt):
            encode_shard(job_of(tmp_path, N), encoder=HashEncoder(fail_after=5))
        stopped = told[-1]
        encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    assert told[0] == ("texts", 0, N) and stopped[1] > 10 and told[-1] == ("texts", N, N)
    resumed = told[told.index(stopped) + 1 :]
    assert [done for _, done, _ in resumed] == sorted(done for _, done, _ in resumed)
    assert resumed[0][1] >= 10


def test_two_writers_of_one_shard_are_refused(tmp_path):
    with folder_lock(tmp_path / "shard"), pytest.raises(ArtifactError, match="another run is using this folder"):
        encode_shard(job_of(tmp_path, N), encoder=HashEncoder())


def test_fewer_texts_than_rows_are_refused(tmp_path):
    job_of(tmp_path, N)
    with pytest.raises(DataError, match=r"found +47 examples\n +expected +60 or more"):
        encode_shard(job_of(tmp_path, N, stop=60), encoder=HashEncoder())
    with pytest.raises(DataError, match="nothing to embed"):
        encode_shard(job_of(tmp_path, N, start=5, stop=5), encoder=HashEncoder())


class _Spoiled(HashEncoder):
    """A row that is wrong for one text."""

    value = np.nan

    def encode(self, texts):
        from tclora.encoding import unit_rows

        rows = super().encode(texts)
        for index, text in enumerate(texts):
            if text.startswith("33 "):
                rows[index] = self.value
        return rows if np.isfinite(self.value) else unit_rows(rows, where="spoiled")


class _TooLong(_Spoiled):
    value = 3.0


def test_a_row_that_is_not_finite_is_named_by_the_line_of_its_text(tmp_path):
    with pytest.raises(NumericalError, match=r"holds NaN or infinity\n +where +\S+texts\.jsonl:34\n"):
        encode_shard(job_of(tmp_path, N), encoder=_Spoiled())


def test_a_row_that_is_not_of_unit_length_is_refused(tmp_path):
    with pytest.raises(NumericalError, match=r"not of unit length(.|\n)*found +length 7\.348"):
        encode_shard(job_of(tmp_path, N), encoder=_TooLong())


def test_a_full_disk_is_an_error_that_says_so_and_not_a_signal(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    job = job_of(tmp_path, N)
    for name in ("posix_fallocate", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(ArtifactError, match=r"cannot be written(.|\n)*No space left(.|\n)*make room"):
                encode_shard(job, encoder=HashEncoder())
    assert np.array_equal(rows_of(encode_shard(job, encoder=HashEncoder())), expected_rows(made_texts(N)))


def test_a_disk_that_cannot_reserve_is_used_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    record = encode_shard(job_of(tmp_path, N), encoder=HashEncoder())
    assert np.array_equal(rows_of(record), expected_rows(made_texts(N)))


def shards(folder: Path, n: int, max_shards: int) -> list[EncodeJob]:
    ranges = shard_ranges(n, max_shards=max_shards, chunk_rows=10)
    return [job_of(folder, n, start=a, stop=b, out=str(folder / f"{max_shards}-{a}")) for a, b in ranges]


@pytest.mark.parametrize(("n", "max_shards", "expected"), [(47, 1, 1), (47, 2, 2), (47, 99, 5), (40, 4, 4), (3, 4, 1)])
def test_shards_are_whole_chunks_and_cover_every_row(n, max_shards, expected):
    ranges = shard_ranges(n, max_shards=max_shards, chunk_rows=10)
    assert len(ranges) == expected
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(n))
    assert all(start % 10 == 0 for start, _ in ranges)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("max_shards", [2, 3, 5])
def test_joined_shards_are_the_bytes_of_a_single_one(tmp_path, max_shards, dtype):
    config = EncodeConfig(dtype=dtype)
    single = encode_shard(job_of(tmp_path, N, config=config), encoder=HashEncoder())
    jobs = [replace(job, config=config) for job in shards(tmp_path, N, max_shards)]
    records = [encode_shard(job, encoder=HashEncoder()) for job in reversed(jobs)][::-1]
    joined = join_shards(records, tmp_path / "joined.npy")
    assert joined == tmp_path / "joined.npy" and digest(joined) == digest(single.rows_file)
    assert join_shards([single], tmp_path / "unused.npy") == Path(single.rows_file)


def test_shards_that_do_not_belong_together_or_are_damaged_are_refused(tmp_path):
    records = [encode_shard(job, encoder=HashEncoder()) for job in shards(tmp_path, N, 3)]
    with pytest.raises(ArtifactError, match="not of one matrix"):
        join_shards([records[0], replace(records[1], d_embed=9)], tmp_path / "joined.npy")
    damage(Path(records[1].rows_file), "flip")
    with pytest.raises(ArtifactError, match=r"finished shard was damaged(.|\n)*other bytes in rows"):
        join_shards(records, tmp_path / "joined.npy")
    assert not list(tmp_path.glob("*joined*"))


def test_a_job_and_its_record_can_be_pickled_and_a_worker_loads_the_encoder_itself(tmp_path):
    config = EncodeConfig(dim=4, n_features=2**10)
    encoder = fit_encoder(config, made_texts(N), seed=0)
    save_encoder(encoder, tmp_path / "encoder")
    job = job_of(tmp_path, N, config=config, encoder_folder=str(tmp_path / "encoder"))
    record = encode_shard(pickle.loads(pickle.dumps(job)))
    assert pickle.loads(pickle.dumps(record)) == record
    assert np.array_equal(rows_of(record), encoder.encode(made_texts(N)))


def test_precomputed_rows_are_taken_from_their_place_a_chunk_at_a_time(tmp_path):
    given = np.random.default_rng(0).standard_normal((60, 3))
    np.save(tmp_path / "given.npy", given)
    config = EncodeConfig(encoder="precomputed", path=str(tmp_path / "given.npy"))
    job = job_of(tmp_path, N, config=config, first_row=10)
    rows = rows_of(encode_shard(job))
    expected = given[10:57] / np.linalg.norm(given[10:57], axis=1, keepdims=True)
    assert np.abs(rows - expected).max() < 1e-6  # one rounding to float32
    given[31, 1] = np.inf
    np.save(tmp_path / "given.npy", given)
    with pytest.raises(NumericalError, match=r"given\.npy, row 31"):
        encode_shard(replace(job, key="other"))


def test_the_progress_file_never_speaks_of_rows_that_are_not_on_disk(tmp_path, often, monkeypatch):
    """In order: rows written, rows flushed, progress replaced."""
    events: list[str] = []
    job = job_of(tmp_path, 10)
    real_write, real_sync, real_replace = os.pwrite, os.fsync, Path.replace
    monkeypatch.setattr(os, "pwrite", lambda *a: events.append("write") or real_write(*a))
    monkeypatch.setattr(os, "fsync", lambda *a: events.append("sync") or real_sync(*a))

    def replaced(path, target):
        events.append("progress" if Path(target).name == "progress.json" else "other")
        return real_replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    encode_shard(job, encoder=HashEncoder())
    words = " ".join(events).removeprefix("write ")  # the header
    # The second and third sync are of the progress file and of its folder.
    assert words == " ".join(["write sync sync progress sync"] * 4)
    assert json.loads((tmp_path / "shard" / "progress.json").read_text())["state"]["open_batches"] == 0


class _Wide(HashEncoder):
    """Rows that cost nothing to make."""

    def encode(self, texts):
        rows = np.zeros((len(texts), self.d_embed), dtype=np.float32)
        rows[:, 0] = 1
        return rows


def test_memory_holds_a_chunk_and_not_the_matrix(tmp_path):
    n, d_embed, chunk_rows = 1_500, 4096, 50
    write_examples(tmp_path / "texts.jsonl", [Example(f"text {i}", output="x") for i in range(n)])
    job = job_of(tmp_path, n, chunk_rows=chunk_rows)
    tracemalloc.start()
    try:
        record = encode_shard(job, encoder=_Wide(d_embed=d_embed, batch_size=20))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Path(record.rows_file).stat().st_size > n * d_embed * 4
    # The chunk, a copy to write it or sum it, a batch and what checking it takes; what the reader holds is small.
    assert peak_bytes < 4 * chunk_rows * d_embed * 4 < n * d_embed * 4 / 6
