"""Atomic writes, staged folders, manifests and locks: what a kill at any moment may leave behind."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tclora.artifacts import (
    Manifest,
    digest_of,
    file_digests,
    folder_lock,
    is_complete,
    read_json,
    read_manifest,
    remove_partials,
    sha256_file,
    staged_folder,
    write_bytes,
    write_json,
    write_manifest,
)
from tclora.errors import ArtifactError, OutputExistsError


def finished(folder: Path, key: str = "k") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("one")
    write_manifest(folder, Manifest("stage", key, {}, {}, file_digests(folder), seed=0, wall_s=1.0))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_equal_values_have_equal_digests_whatever_their_order():
    assert digest_of({"a": 1, "b": [1.5, None]}) == digest_of({"b": [1.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "x.json", {"name": "ä", "n": 3})
    assert read_json(tmp_path / "x.json") == {"name": "ä", "n": 3}
    assert names(tmp_path) == ["x.json"]


def test_damaged_json_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    write_bytes(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_staged_folder_appears_whole(tmp_path):
    with staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path / "out") == ["a"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(("number", "named"), [(errno.ENOSPC, True), (errno.EFBIG, True), (errno.ENOENT, False)])
def test_a_full_disk_is_named_by_the_output_and_other_failures_are_not_its(tmp_path, number, named):
    with pytest.raises(ArtifactError if named else OSError) as raised, staged_folder(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    assert (str(tmp_path / "out") in str(raised.value)) == named
    assert names(tmp_path) == []


def test_a_name_that_is_not_text_is_refused_before_any_work(tmp_path):
    with pytest.raises(OutputExistsError, match="not text"):
        staged_folder(tmp_path / os.fsdecode(b"caf\xe9")).__enter__()


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("1")
        raise RuntimeError
    assert names(tmp_path) == []


def test_an_existing_output_is_refused(tmp_path):
    finished(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="--overwrite"), staged_folder(tmp_path / "out"):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("typed", ["out", "out/", "./out", "out/../out", "link/out"])
def test_an_empty_folder_is_filled_however_it_is_named(tmp_path, typed, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(".")
    with staged_folder(Path(f"{tmp_path}/{typed}"), overwrite=overwrite) as staging:
        (staging / "a").touch()
    assert names(tmp_path / "out") == ["a"]
    assert names(tmp_path) == ["link", "out"]


@pytest.mark.parametrize("typed", [".", "", "../here"])
def test_the_folder_that_this_runs_in_is_refused(tmp_path, monkeypatch, typed):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="folder that this runs in"):
            staged_folder(Path(typed), overwrite=overwrite).__enter__()
    assert names(tmp_path) == ["here"]


def test_a_mount_point_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "volume")
    with pytest.raises(OutputExistsError, match="choose a folder inside it"):
        staged_folder(tmp_path / "volume").__enter__()
    assert names(tmp_path) == ["volume"]


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path):
    finished(tmp_path / "real")
    (tmp_path / "out").symlink_to("real")
    with staged_folder(tmp_path / "out", overwrite=True) as staging:
        (staging / "b").touch()
    assert names(tmp_path) == ["out", "real"]
    assert names(tmp_path / "out") == ["b"]
    assert is_complete(tmp_path / "real", "k")


def test_the_old_folder_comes_back_where_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    finished(tmp_path / "out")
    real = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if ".new-" in path.name:
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with (
        pytest.raises(ArtifactError, match="No space left"),
        staged_folder(tmp_path / "out", overwrite=True) as staging,
    ):
        (staging / "b").touch()
    assert is_complete(tmp_path / "out", "k")
    assert names(tmp_path) == ["out"]


def test_overwriting_keeps_the_old_folder_until_the_new_one_is_whole(tmp_path):
    finished(tmp_path / "out")
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", overwrite=True) as staging:
        (staging / "b").write_text("2")
        raise RuntimeError
    assert names(tmp_path / "out") == ["a.txt", "manifest.json"]
    with staged_folder(tmp_path / "out", overwrite=True) as staging:
        (staging / "b").write_text("2")
    assert names(tmp_path / "out") == ["b"]
    assert names(tmp_path) == ["out"]


def test_a_swap_killed_half_way_is_undone(tmp_path):
    finished(tmp_path / ".out.old-1.partial")
    (tmp_path / ".out.new-1.partial").mkdir()
    remove_partials(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert is_complete(tmp_path / "out", "k")


def test_a_finished_folder_is_complete(tmp_path):
    finished(tmp_path / "s")
    assert is_complete(tmp_path / "s", "k")
    assert not is_complete(tmp_path / "s", "another key")


@pytest.mark.parametrize("damage", ["delete", "empty", "halve", "flip"])
@pytest.mark.parametrize("name", ["a.txt", "manifest.json"])
def test_damage_is_seen(tmp_path, name, damage):
    finished(tmp_path / "s")
    path = tmp_path / "s" / name
    content = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes({"empty": b"", "halve": content[: len(content) // 2], "flip": flipped}[damage])
    assert not is_complete(tmp_path / "s", "k")


@pytest.mark.parametrize("text", ["[]", "{}", '{"stage": 1}', "null"])
def test_a_manifest_of_another_form_counts_as_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifest(tmp_path) is None


def test_a_manifest_with_odd_outputs_counts_as_none(tmp_path):
    finished(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": [1]}))
    assert read_manifest(tmp_path / "s") is None


def test_digests_leave_out_hidden_files_the_manifest_and_scratch(tmp_path):
    finished(tmp_path)
    (tmp_path / ".lock").write_text("1")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x").write_text("1")
    assert file_digests(tmp_path, skip=("cache",)) == {"a.txt": sha256_file(tmp_path / "a.txt")}


HOLD = """
import sys, time
from pathlib import Path
from tclora.artifacts import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_names_the_first_and_a_killed_run_frees_the_folder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ArtifactError, match=f"process {holder.pid}"), folder_lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with folder_lock(tmp_path):
        pass
    assert names(tmp_path) == []


def test_partials_of_another_name_are_left_alone(tmp_path):
    others = [".m.5.old-123.partial", ".m.5.new-9.partial", ".mm.new-9.partial", ".m.json.9.partial", ".m.notes"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".m.new-9.partial").mkdir()
    remove_partials(tmp_path / "m")
    assert names(tmp_path) == sorted(others)


@pytest.mark.parametrize("name", ["g[1]", "*", "a b", "ä" * 120, "x" * 250])
def test_partials_of_any_name_are_found_again(tmp_path, name):
    with staged_folder(tmp_path / name) as staging:
        assert len(os.fsencode(staging.name)) <= 255
        killed = staging.name
    (tmp_path / killed).mkdir()
    (tmp_path / ".other.new-1.partial").mkdir()
    remove_partials(tmp_path / name)
    assert names(tmp_path) == sorted([".other.new-1.partial", name])


def test_the_folder_of_a_living_writer_is_not_touched(tmp_path):
    body = """
        import sys, time
        from pathlib import Path
        from tclora.artifacts import staged_folder
        with staged_folder(Path(sys.argv[1])) as staging:
            (staging / "theirs").touch()
            print("ready", flush=True)
            sys.stdin.readline()
        """
    command = [sys.executable, "-c", textwrap.dedent(body), str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(OutputExistsError), staged_folder(tmp_path / "out") as staging:
            (staging / "ours").touch()
            other.communicate("go on\n")
        assert other.returncode == 0
    assert names(tmp_path / "out") == ["theirs"]
    assert names(tmp_path) == ["out"]


def test_what_a_killed_overwriting_set_aside_counts_as_an_output(tmp_path):
    finished(tmp_path / ".out.old-1.partial")
    with pytest.raises(OutputExistsError), staged_folder(tmp_path / "out"):
        pass
    assert is_complete(tmp_path / "out", "k")


def test_a_place_that_the_system_refuses_is_named(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(ArtifactError, match="could not be written"), staged_folder(place):
            pass
