"""The study of clusterings on a few rows: every cell measured, resumed and compared with random clusters."""

import json

import numpy as np
import pytest
import yaml
from test_run import small_config
from typer.testing import CliRunner

from tclora.artifacts import is_complete
from tclora.cli.app import app
from tclora.config.study import load_study
from tclora.errors import ConfigError
from tclora.pipeline.studies.clustering import study_clustering

STUDY = {
    "encoders": {"narrow": {"encoder": "tfidf", "dim": 4}, "wide": {"encoder": "tfidf", "dim": 8}},
    "clusterings": {"kmeans": {"n_init": 2}, "random": {"algorithm": "random", "n_init": 2}},
    "n_clusters": [2],
    "seeds": [0, 1],
    "silhouette_rows": 20,
    "n_bootstrap": 50,
}


def study_file(folder, **changes):
    path = small_config(folder, output=str(folder / "study"))
    data = yaml.safe_load(path.read_text()) | {"study": STUDY | changes}
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return study_clustering(*load_study(study_file(folder)))


def test_every_cell_is_measured(finished):
    cells = finished.record.cells
    assert len(cells) == 8 and {cell.n_found for cell in cells} == {2}
    trained = [cell for cell in cells if cell.loss is not None]
    assert {cell.seed for cell in trained} == {0} and len(trained) == 4
    for cell in cells:
        assert cell.purity is not None and 0 < cell.purity <= 1 and -1 <= cell.silhouette <= 1
    # Only cells that are not the random one have a difference from it, and its parts are those two losses.
    by_name = {(cell.encoder, cell.clustering): cell for cell in trained}
    for encoder in ("narrow", "wide"):
        ours, random = by_name[encoder, "kmeans"], by_name[encoder, "random"]
        assert random.loss_less_random is None
        assert ours.loss_less_random.value == pytest.approx(ours.loss.value - random.loss.value, abs=1e-12)


def test_agreement_is_told_for_each_thing_that_varies(finished):
    found = {(row.across, row.encoder, row.clustering): row for row in finished.record.agreement}
    assert {across for across, _, _ in found} == {"seeds", "clusterings", "encoders"}
    # Two seeds make one pair; two seeds of two encoders make two pairs, one for each seed.
    assert found["seeds", "narrow", "kmeans"].n_pairs == 1
    assert found["encoders", None, "kmeans"].n_pairs == 2
    assert found["clusterings", "wide", None].n_pairs == 2


def test_a_second_run_changes_nothing_and_trains_nothing(finished, tmp_path):
    files = [path for path in sorted(finished.folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files if "libraries" in path.parts or path.suffix == ".npy"}
    again = study_clustering(*load_study(finished.folder.parent / "run.yaml"))
    assert again.record == finished.record
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_study_with_more_seeds_keeps_its_cells(finished):
    path = finished.folder.parent / "run.yaml"
    cell = finished.folder / "cells" / "narrow-kmeans-k2-seed0" / "cluster" / "train_labels.npy"
    before = cell.stat().st_mtime_ns
    more = study_clustering(*load_study(path, ["study.seeds=[0, 1, 2]"]))
    assert len(more.record.cells) == 12 and cell.stat().st_mtime_ns == before


def test_the_losses_are_those_of_each_examples_own_adapter(finished):
    """One dev example scored by hand, with the adapter of its cluster put on the base."""
    from tclora.adapters import read_adapter
    from tclora.data import read_examples
    from tclora.models import attached, load_base, response_losses, tokenize_example

    config, _ = load_study(finished.folder.parent / "run.yaml")
    base = load_base(config.base)
    cell = finished.folder / "cells" / "narrow-kmeans-k2-seed0" / "cluster"
    labels = np.load(cell / "dev_labels.npy")
    rows = [tokenize_example(base, row) for row in read_examples([str(finished.folder / "data" / "dev.jsonl")])]
    expected = []
    for library in sorted((finished.folder / "libraries").iterdir()):
        nats = np.load(finished.folder / "losses" / library.name / "losses.npy")[0]
        with attached(base, read_adapter(library / f"cluster-{labels[0]}")) as adapted:
            expected.append((response_losses(adapted, rows[:1], batch_size=1)[0][0], nats[0]))
    # Padding and batching change the last float32 digits of a sum of a few logarithms; one library is the cell's own.
    assert any(found == pytest.approx(stored, rel=1e-5) for found, stored in expected)


def test_the_command_plans_runs_and_tells(finished):
    path = str(finished.folder.parent / "run.yaml")
    plan = CliRunner().invoke(app, ["study", "clustering", path, "--dry-run", "--json"])
    assert json.loads(plan.stdout)["n_cells"] == 8 and json.loads(plan.stdout)["n_trained"] == 4
    done = CliRunner().invoke(app, ["study", "clustering", path, "--quiet"])
    assert done.exit_code == 0 and "kmeans" in done.stdout and "study.svg" in done.stdout
    page = (finished.folder / "study.md").read_text()
    assert "less random" in page and "across" in page
    assert (finished.folder / "study.svg").read_text().startswith("<svg")
    assert len((finished.folder / "cells.csv").read_text().splitlines()) == 9


def test_every_part_is_a_finished_stage(finished):
    manifests = list((finished.folder / "cells").glob("*/cluster/manifest.json"))
    assert len(manifests) >= 8
    for manifest in manifests:
        assert is_complete(manifest.parent, json.loads(manifest.read_text())["key"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_clusters": [5000]}, "cell narrow-kmeans-k5000"),
        ({"seeds": [1, 1]}, "stands twice"),
        ({"clusterings": {}}, "clusterings"),
        ({"encodres": {}}, "encodres"),
    ],
)
def test_what_cannot_be_studied_is_refused_by_name(tmp_path, changes, message):
    path = study_file(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        study_clustering(*load_study(path))
