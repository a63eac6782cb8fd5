"""A library that grows: known kinds go to their cluster, a new kind opens one, and the rest is not touched."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from killer import forked
from library_cases import Heard, recipes, trained_run, tree

from tclora.adapters import read_adapter
from tclora.clustering import ClusterModel, assign_clusters, load_clusters
from tclora.config import load_config
from tclora.data import Example, read_examples, write_examples
from tclora.data.quickstart import quickstart_examples
from tclora.errors import ArtifactError, ConfigError, DataError, OutputExistsError
from tclora.merging import merge_adapters
from tclora.pipeline.extension.assign import AssignSettings, Known, assign_new, parse_threshold
from tclora.pipeline.extension.extend import extend_library, plan_extension
from tclora.pipeline.extension.record import ClusterShare, histogram_line
from tclora.pipeline.extension.request import ExtendRequest
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.libraries.edit import list_library, remove_adapter, rename_adapter
from tclora.pipeline.libraries.import_folders import ImportRequest, import_library
from tclora.pipeline.libraries.index import open_library
from tclora.pipeline.libraries.samples import distances_to, mixed_sample, neighbor_distances, run_samples
from tclora.pipeline.run import run_pipeline


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return trained_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def known_file(tmp_path_factory) -> Path:
    """Other instances of the tasks that the library was trained on."""
    path = tmp_path_factory.mktemp("data") / "known.jsonl"
    write_examples(path, quickstart_examples(seed=7, n_train=3, n_dev=1, n_held_out=1).train)
    return path


@pytest.fixture(scope="module")
def foreign_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "foreign.jsonl"
    write_examples(path, recipes())
    return path


def extended(library: Path, *data: Path, told=None, min_size: int = 20, **wanted):
    assign = AssignSettings(
        min_size=min_size, **{k: wanted.pop(k) for k in ("threshold", "new_clusters") if k in wanted}
    )
    return extend_library(ExtendRequest(str(library), tuple(map(str, data)), assign=assign, **wanted), told)


def weights(library: Path) -> dict[str, bytes]:
    index = open_library(library)
    return {e.name: (index.folder(e) / "adapter_model.safetensors").read_bytes() for e in index.index.adapters}


def merged(library: Path, label: str) -> bytes:
    return (library / str(open_library(library).index.merge) / label / "adapter_model.safetensors").read_bytes()


# Assignment, on planted rows.


def planted(seed: int = 0, n: int = 300) -> tuple[Known, np.random.Generator]:
    """Two tight clusters on the unit sphere, and their true model."""
    rng = np.random.default_rng(seed)
    samples = {index: near(rng, index, n) for index in (0, 1)}
    centroids = np.stack([samples[index].mean(axis=0) for index in (0, 1)]).astype(np.float32)
    return Known(ClusterModel(centroids, 2 * n, 0.1), (0, 1), samples), rng


def near(rng: np.random.Generator, axis: int, n: int) -> np.ndarray:
    rows = 0.2 * rng.standard_normal((n, 8))
    rows[:, axis] += 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def assigned(rows: np.ndarray, known: Known, **settings):
    return assign_new(rows, [""] * len(rows), known, AssignSettings(**settings))


@pytest.mark.parametrize("seed", range(12))
def test_rows_like_the_librarys_own_open_nothing(seed):
    known, rng = planted(seed)
    rows = np.concatenate([near(rng, 0, 2000), near(rng, 1, 500)])
    found = assigned(rows, known)
    assert len(found.centroids) == 2
    assert found.labels.tolist() == assign_clusters(rows, known.model.centroids).tolist()


def test_a_planted_kind_opens_one_cluster_and_takes_all_of_it():
    known, rng = planted()
    rows = np.concatenate([near(rng, 0, 200), near(rng, 5, 40)])
    found = assigned(rows, known)
    assert len(found.centroids) == 3
    assert (found.labels[200:] == 2).all()
    assert (found.labels[:200] == 0).all()
    assert np.array_equal(found.centroids[:2], known.model.centroids)


def test_two_planted_kinds_open_two_clusters():
    known, rng = planted()
    rows = np.concatenate([near(rng, 4, 50), near(rng, 6, 40)])
    found = assigned(rows, known)
    assert len(found.centroids) == 4
    assert len(set(found.labels[:50].tolist())) == len(set(found.labels[50:].tolist())) == 1


def test_a_kind_between_two_wide_clusters_is_found_by_its_neighbors():
    """Within every threshold of distance to a centroid, but near to no row."""
    rng = np.random.default_rng(0)
    angles = np.where(np.arange(400) % 2, 0.9, -0.9) + 0.05 * rng.standard_normal(400)
    sample = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    model = ClusterModel(sample.mean(axis=0, keepdims=True).astype(np.float32), 400, 0.1)
    known = Known(model, (0,), {0: sample})
    between = np.stack([np.cos(np.linspace(-0.1, 0.1, 30)), np.sin(np.linspace(-0.1, 0.1, 30))], axis=1)
    rows = between.astype(np.float32)
    limit = assigned(rows, known, threshold="p99").thresholds[0]
    assert (distances_to(rows, model.centroids, np.zeros(30, dtype=np.int64)) < limit).all()
    assert len(assigned(rows, known).centroids) == 2


def test_few_far_rows_go_to_the_nearest_cluster_and_it_is_said():
    known, rng = planted()
    rows = np.concatenate([near(rng, 0, 50), near(rng, 5, 10)])
    found = assigned(rows, known, min_size=20)
    assert len(found.centroids) == 2
    assert set(found.labels.tolist()) <= {0, 1}
    assert any("fewer than the 20" in note for note in found.notes)


def test_rows_the_encoder_knows_nothing_of_are_far_and_open_a_cluster_of_their_own():
    known, rng = planted()
    rows = np.concatenate([near(rng, 0, 50), np.zeros((30, 8), dtype=np.float32)])
    found = assigned(rows, known)
    assert (found.labels[50:] == 2).all()
    assert (found.labels[:50] == 0).all()
    assert any("nothing that the encoder knows" in note for note in found.notes)


def test_a_group_without_enough_training_rows_is_dissolved():
    known, rng = planted()
    rows = np.concatenate([near(rng, 0, 50), near(rng, 5, 40)])
    found = assign_new(rows, [""] * 90, known, AssignSettings(min_size=20), n_train=60)
    assert len(found.centroids) == 2
    assert any("dissolved" in note for note in found.notes)


def test_a_cluster_without_an_adapter_is_given_nothing():
    known, rng = planted()
    only_first = Known(known.model, (0,), {0: known.samples[0]})
    rows = np.concatenate([near(rng, 1, 40), near(rng, 0, 40)])
    found = assigned(rows, only_first)
    assert (found.labels[40:] == 0).all()
    assert (found.labels[:40] == 2).all()


def test_an_example_of_a_known_task_goes_to_its_cluster_however_far():
    known, rng = planted()
    model = ClusterModel(known.model.centroids, 10, 0.1, algorithm="task", groups=(("a",), ("b/1", "b/2")))
    known = Known(model, (0, 1), known.samples)
    rows = near(rng, 5, 60)
    found = assign_new(rows, ["b/1"] * 30 + [""] * 30, known, AssignSettings())
    assert (found.labels[:30] == 1).all()
    assert (found.labels[30:] == 2).all()


def test_so_many_new_clusters_as_asked_for():
    known, rng = planted()
    assert len(assigned(near(rng, 5, 60), known, new_clusters=2, min_size=5).centroids) == 4


@pytest.mark.parametrize(("text", "found"), [("p95", ("percentile", 95.0)), ("0.75", ("distance", 0.75))])
def test_a_threshold_is_a_distance_or_a_percentile(text, found):
    assert parse_threshold(text) == found


@pytest.mark.parametrize("text", ["", "p", "p0", "p100", "-1", "nan", "inf", "0", "far"])
def test_another_threshold_is_refused(text):
    with pytest.raises(ConfigError, match="neither a distance nor a percentile"):
        parse_threshold(text)


def test_neighbor_distances_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    rows, others = rng.standard_normal((30, 5)).astype(np.float32), rng.standard_normal((50, 5)).astype(np.float32)
    dense = np.linalg.norm(rows[:, None].astype(float) - others[None], axis=2)
    # The squares are expanded, so the error is a few float32 roundings of their sum, about 30 here.
    np.testing.assert_allclose(neighbor_distances(rows, others), dense.min(axis=1), atol=1e-5)
    own = np.linalg.norm(rows[:, None].astype(float) - rows[None], axis=2)
    np.fill_diagonal(own, np.inf)
    np.testing.assert_allclose(neighbor_distances(rows, rows, themselves=True), own.min(axis=1), atol=1e-5)


def test_a_mixed_sample_keeps_the_shares():
    old, new = np.zeros((2000, 3), dtype=np.float32), np.ones((6000, 3), dtype=np.float32)
    mixed = mixed_sample(old, 2000, new)
    assert len(mixed) == 2000
    assert mixed[:, 0].mean() == pytest.approx(0.75)  # 6000 of 8000


def test_the_samples_of_a_run_are_its_rows(trained):
    samples = run_samples(RunFolder(trained))
    rows, labels = np.load(trained / "encode/train.npy"), np.load(trained / "cluster/train_labels.npy")
    for index, sample in samples.items():
        assert np.array_equal(sample, rows[labels == index])


def test_the_histogram_line_shows_the_threshold():
    share = ClusterShare("c", 0, False, 1, 4, 0, 0, 0.5, 0.2, (4,) + (0,) * 14 + (1,))
    assert histogram_line(share, 1.0) == "█       |       ▂"


# Extension, on a trained library.


def test_a_plan_shows_the_table_and_writes_nothing(run, known_file, foreign_file):
    before = tree(run)
    record = plan_extension(ExtendRequest(str(run), (str(known_file), str(foreign_file))))
    assert tree(run) == before
    assert record.opened == ("cluster-2",)
    assert sum(share.n_train + share.n_dev for share in record.shares) == record.n_train + record.n_dev == 90
    assert sum(sum(share.histogram) for share in record.shares) == 90


def test_a_plan_refuses_a_taken_output_as_the_work_does(run, known_file, tmp_path):
    write_examples(tmp_path / "taken" / "mine.jsonl", [Example("a", "", "b")])
    for do in (plan_extension, extend_library):
        with pytest.raises(OutputExistsError, match="no copy of this library"):
            do(ExtendRequest(str(run), (str(known_file),), out=str(tmp_path / "taken")))


@pytest.fixture(scope="module")
def grown(trained, foreign_file, tmp_path_factory) -> Path:
    """The library extended by the foreign family alone, as a copy."""
    out = tmp_path_factory.mktemp("grown") / "lib"
    extended(trained, foreign_file, out=str(out))
    return out


def test_a_foreign_family_opens_a_cluster_with_an_adapter(grown, trained):
    rows = list_library(grown)
    assert [row.name for row in rows] == ["cluster-0", "cluster-1", "cluster-2"]
    assert (rows[2].n_examples or 0) > 40
    index = open_library(grown).index
    assert index.extensions[0].opened == ("cluster-2",)
    assert read_adapter(open_library(grown).folder(index.adapters[2])).shapes
    assert load_clusters(grown / str(index.cluster)).n_clusters == 3
    assert np.array_equal(
        load_clusters(grown / str(index.cluster)).centroids[:2], load_clusters(trained / "cluster").centroids
    )


def test_what_no_new_example_reached_is_byte_identical(grown, trained):
    old, new = weights(trained), weights(grown)
    untouched = [name for name in old if name not in open_library(grown).index.extensions[0].retrained]
    assert untouched
    assert all(new[name] == old[name] for name in untouched)


@pytest.mark.slow
def test_the_library_that_was_copied_is_not_touched(trained, known_file, tmp_path):
    before = tree(trained)
    extended(trained, known_file, out=str(tmp_path / "copy"))
    assert tree(trained) == before


@pytest.mark.parametrize("label", ["svd", "mean"])
def test_the_merges_are_those_of_the_whole_library(grown, trained, label, tmp_path):
    assert merged(grown, label) != merged(trained, label)
    library = open_library(grown)
    entries = library.index.adapters
    merge = next(m for m in load_config(grown / "config.yaml").merge if m.label == label)
    sizes = [entry.n_examples or 0 for entry in entries]
    again = merge_adapters(
        [read_adapter(library.folder(entry), name=entry.name) for entry in entries],
        merge.method,
        params=merge.params,
        adapter_weights=None if merge.weights == "uniform" else tuple(size / sum(sizes) for size in sizes),
    )
    written = read_adapter(grown / str(library.index.merge) / label)
    for path, factors in again.adapter.modules.items():
        whole = factors.lora_b @ factors.lora_a
        stored = written.modules[path].lora_b @ written.modules[path].lora_a
        # Written in bf16: both factors are rounded at 2**-8.
        assert (stored - whole).norm() <= 2**-6 * whole.norm()


def test_known_kinds_go_to_the_cluster_of_their_nearest_centroid(run, known_file):
    record = extended(run, known_file, min_size=50)
    assert record.opened == ()
    assert record.retrained == ("cluster-0", "cluster-1")
    index = open_library(run).index
    for entry in index.adapters:
        held = read_examples([str(run / str(entry.train_file))])
        share = next(share for share in record.shares if share.name == entry.name)
        assert len(held) == entry.n_examples == share.n_before + share.n_train


@pytest.mark.slow
def test_extending_in_place_leaves_the_runs_own_files_and_stages_alone(run, known_file):
    before = tree(run)
    extended(run, known_file, min_size=50)
    after = tree(run)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"extensions", "library.json"}


def test_the_same_data_again_changes_nothing(grown, foreign_file):
    before = tree(grown)
    record = extended(grown, foreign_file)
    assert (record.already, record.n_known, record.n_train) == (True, 48, 0)
    assert tree(grown) == before


@pytest.mark.slow
def test_a_second_extension_builds_on_the_first(grown, tmp_path, known_file):
    library = Path(shutil.copytree(grown, tmp_path / "lib"))
    extended(library, known_file, min_size=50)
    index = open_library(library).index
    assert len(index.extensions) == 2
    assert [entry.name for entry in index.adapters] == ["cluster-0", "cluster-1", "cluster-2"]
    assert load_clusters(library / str(index.cluster)).n_clusters == 3
    new, old = weights(library), weights(grown)
    assert {name for name in old if new[name] != old[name]} == set(index.extensions[1].retrained)


def test_only_new_lets_the_others_wait_and_the_next_time_trains_them(run, known_file):
    old = weights(run)
    told = Heard()
    record = extended(run, known_file, only_new=True, min_size=50, told=told)
    assert weights(run) == old
    assert sum((record.waiting or {}).values()) == record.n_train
    assert any("wait for cluster-0" in note for note in told.notes)
    again = extended(run, known_file, min_size=50)
    assert again.retrained == ("cluster-0", "cluster-1")
    assert not any(row.n_waiting for row in list_library(run))


def test_renamed_and_removed_adapters_stay_so(run, known_file):
    rename_adapter(run, "cluster-1", "dates")
    remove_adapter(run, "cluster-0")
    record = extended(run, known_file, min_size=50)
    assert record.retrained == ("dates",)
    assert [(row.name, row.cluster) for row in list_library(run)] == [("dates", 1)]


def test_an_imported_library_can_be_extended(run, foreign_file, tmp_path):
    folders = tuple(str(run / "library" / name) for name in ("cluster-0", "cluster-1"))
    import_library(ImportRequest(folders, str(tmp_path / "lib"), clusters=str(run / "cluster")))
    shutil.rmtree(run)
    record = extended(tmp_path / "lib", foreign_file)
    assert record.opened == ("cluster-2",)
    assert len(list_library(tmp_path / "lib")) == 3


@pytest.mark.slow
def test_the_run_goes_on_as_before_beside_its_extensions(run, known_file, trained):
    extended(run, known_file, min_size=50)
    config = load_config(trained.parent / "run.yaml", [f"output={run}"])
    before = (run / "library/cluster-0/adapter_model.safetensors").stat().st_mtime_ns
    run_pipeline(config, until="merge")
    assert (run / "library/cluster-0/adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ({"threshold": "x"}, ConfigError, "neither a distance"),
        ({"min_size": 0}, ConfigError, "below 1"),
        ({"new_clusters": 0}, ConfigError, "below 1"),
        ({"overrides": ("merge.0.weights=[1.0]",)}, ConfigError, "weights of a merge do not match"),
        ({"overrides": ("base.path=./nowhere",)}, ConfigError, "base model"),
    ],
)
def test_what_is_wrong_is_refused_and_the_library_stays(run, known_file, wanted, error, said):
    before = tree(run)
    with pytest.raises(error, match=said):
        extended(run, known_file, **wanted)
    assert tree(run) == before


def test_another_base_is_refused(run, known_file, tmp_path):
    from tclora.models import bundled_base_path

    other = Path(shutil.copytree(bundled_base_path(), tmp_path / "other"))
    (other / "generation_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not the one that the library was trained on"):
        extended(run, known_file, overrides=(f"base.path={other}",))


def test_a_changed_adapter_is_refused(run, known_file):
    rename_adapter(run, "cluster-0", "first")
    (run / "library/cluster-0/adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="'first' is changed"):
        extended(run, known_file)


def test_a_library_without_clusters_is_refused(run, known_file, tmp_path):
    import_library(ImportRequest((str(run / "library/cluster-0"),), str(tmp_path / "lib")))
    with pytest.raises(ConfigError, match="cannot be extended"):
        extended(tmp_path / "lib", known_file)


def test_bad_data_is_refused_and_the_library_stays(run, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"instruction": 1}\n')
    before = tree(run)
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        extended(run, tmp_path / "bad.jsonl")
    assert tree(run) == before


@pytest.mark.slow
def test_one_example_alone_is_enough(run, tmp_path):
    write_examples(tmp_path / "one.jsonl", [Example("The first word only.\nsky blue", "", "sky")])
    record = extended(run, tmp_path / "one.jsonl")
    assert (record.n_train, record.n_dev, len(record.retrained)) == (1, 0, 1)


def killed(library: Path, limit: int, *words: object) -> subprocess.CompletedProcess:
    return forked(library, limit, "extend", str(library), *map(str, words), "--quiet")


def without_times(library: Path) -> dict[str, object]:
    """All that must not depend on what happened on the way."""
    files = {name: content for name, content in tree(library).items() if not name.endswith(("merge.json", "README.md"))}
    return {name: content for name, content in files.items() if not name.endswith("manifest.json")}


@pytest.mark.slow
def test_killed_again_and_again_it_ends_equal_and_the_old_library_is_whole_till_then(run, foreign_file, tmp_path):
    unbroken = Path(shutil.copytree(run, tmp_path / "unbroken"))
    done = killed(unbroken, 0, foreign_file)
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout.strip().split("\n")[-1])["changes"]
    old, deaths = weights(run), 0
    for start in range(9):
        # Later and later, for a stage that is built as a whole starts again where it is killed.
        done = killed(run, changes // 5 * (start % 4 + 1), foreign_file)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        deaths += 1
        if not (run / "library.json").exists():
            assert weights(run) == old
    else:
        pytest.fail("the extension made no progress between kills")
    assert deaths >= 2
    assert without_times(run) == without_times(unbroken)


def test_stopped_before_the_merges_the_old_library_stands_and_the_same_command_finishes(
    run, foreign_file, grown, monkeypatch
):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    before = tree(run)
    with monkeypatch.context() as patch:
        patch.setattr("tclora.pipeline.stages.merge.merge_adapters", stopped)
        with pytest.raises(KeyboardInterrupt):
            extended(run, foreign_file)
    after = tree(run)
    assert {name: after[name] for name in before} == before
    assert len(list_library(run)) == 2
    extended(run, foreign_file)
    assert weights(run) == weights(grown)
    assert {label: merged(run, label) for label in ("svd", "mean")} == {
        label: merged(grown, label) for label in ("svd", "mean")
    }


@pytest.mark.slow
def test_killed_once_in_training_it_goes_on_to_the_same_library(run, foreign_file, grown):
    done = killed(run, 60, foreign_file)
    assert done.returncode == -9, done.stderr
    assert not (run / "library.json").exists()
    assert len(list_library(run)) == 2
    extended(run, foreign_file)
    assert weights(run) == weights(grown)
    assert {label: merged(run, label) for label in ("svd", "mean")} == {
        label: merged(grown, label) for label in ("svd", "mean")
    }
    assert [path for path in run.rglob("*") if "partial" in path.name or path.name.endswith(".work")] == []
