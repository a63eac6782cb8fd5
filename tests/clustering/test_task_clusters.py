"""Clusters that are groups of tasks: by label, and by how alike the adapters of the tasks are."""

import numpy as np
import pytest
import torch
from planted_clusters import planted_facts, planted_library, planted_rows

from tclora.adapters import LoraFactors, make_adapter, read_adapter, write_adapter
from tclora.clustering import ExampleFacts, assign_examples, fit_clusters, load_clusters, save_clusters, task_labels
from tclora.clustering.adapter_similarity import cosine_coordinates, library_tasks, update_products
from tclora.config import ClusterConfig
from tclora.errors import AdapterError, AdapterMismatchError, ArtifactError, ConfigError, NumericalError


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return planted_library(tmp_path_factory.mktemp("library"))


def fit(rows, facts, algorithm="task", k=4, **settings):
    return fit_clusters(rows, ClusterConfig(algorithm=algorithm, **settings), n_clusters=k, seed=0, facts=facts)


def test_families_are_the_clusters_where_they_are_enough():
    rows, groups = planted_rows()
    found = fit(rows, planted_facts(groups))
    assert found.model.groups == (("family0",), ("family1",), ("family2",), ("family3",))
    assert found.model.notes == ()


def test_tasks_are_the_clusters_where_families_are_too_few():
    rows, groups = planted_rows()
    found = fit(rows, planted_facts(groups), k=8)
    assert found.model.n_clusters == 8
    assert all(len(group) == 1 and "/" in group[0] for group in found.model.groups)


def test_the_nearest_tasks_are_joined_where_there_are_too_many():
    rows, groups = planted_rows()
    found = fit(rows, planted_facts(groups), k=5)
    assert "8 tasks were joined to 5" in found.model.notes[0]
    assert all(len({task.split("/")[0] for task in group}) == 1 for group in found.model.groups)


def test_more_clusters_than_tasks_are_refused():
    rows, groups = planted_rows()
    with pytest.raises(ConfigError, match=r"(?s)8 tasks, 9 clusters.*lower n_clusters to 8"):
        fit(rows, planted_facts(groups), k=9)


def test_rows_without_a_task_go_to_the_nearest_and_are_counted():
    rows, groups = planted_rows()
    facts = planted_facts(groups)
    tasks = ["" if index % 7 == 0 else task for index, task in enumerate(facts.tasks)]
    found = fit(rows, ExampleFacts(tasks=tasks))
    assert np.array_equal(found.labels, groups)
    assert f"{sum(not task for task in tasks)} examples without a task" in found.model.notes[0]


@pytest.mark.parametrize("facts", [ExampleFacts(), ExampleFacts(tasks=[""] * 430), None])
def test_data_without_task_labels_are_refused(facts):
    with pytest.raises(ConfigError, match=r"(?s)carry no task labels.*data\.fields"):
        fit(planted_rows()[0], facts)


def test_new_examples_go_by_task_then_family_then_centroid():
    rows, groups = planted_rows()
    model = fit(rows, planted_facts(groups)).model
    near = {group: rows[np.flatnonzero(groups == group)[0]] for group in range(4)}
    new = np.stack([near[3], near[3], near[3]])
    assert assign_examples(model, new, tasks=["family1/unseen", "family0", "other"]).tolist() == [1, 0, 3]
    assert assign_examples(model, new).tolist() == [3, 3, 3]


def test_labels_that_are_grouped_by():
    tasks = ["a/x", "a/y", "b/z", ""]
    assert task_labels(tasks, 2) == ["a", "a", "b", ""]
    assert task_labels(tasks, 3) == tasks
    assert task_labels(["a/x", "a/y"], 1) == ["a/x", "a/y"]  # one family says nothing


def test_adapters_of_like_tasks_go_together(library):
    rows, groups = planted_rows()
    found = fit(rows, planted_facts(groups, library), "mbc")
    assert found.model.groups == tuple((f"family{i}/task0", f"family{i}/task1") for i in range(4))


def test_products_of_updates_are_those_of_the_dense_matrices(tmp_path):
    generator = torch.Generator().manual_seed(1)
    adapters = []
    for name, r, modules in (("a", 2, "xy"), ("b", 3, "xy"), ("c", 1, "y")):
        factors = {
            f"layers.{m}": LoraFactors(torch.randn(r, 9, generator=generator), torch.randn(7, r, generator=generator))
            for m in modules
        }
        adapters.append(make_adapter(name, factors))
    dense = []
    for adapter in adapters:
        parts = [
            adapter.modules[f"layers.{m}"].delta().flatten() if f"layers.{m}" in adapter.shapes else torch.zeros(63)
            for m in "xy"
        ]
        dense.append(torch.cat([part.double() for part in parts]))
    stacked = torch.stack(dense)
    # Both in float64.
    assert np.allclose(update_products(adapters), (stacked @ stacked.T).numpy(), rtol=1e-12, atol=1e-12)


def test_distances_of_coordinates_are_cosines(library):
    folders = sorted(path for path in library.iterdir())
    points = cosine_coordinates(folders)
    products = update_products([read_adapter(folder) for folder in folders])
    norms = np.sqrt(np.diag(products))
    # Eigenvectors in float64; the root of an eigenvalue near 0 keeps half the digits.
    assert np.allclose(points @ points.T, products / norms / norms[:, None], atol=1e-7)


def test_a_scaled_adapter_is_the_same_adapter(tmp_path):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, generator=generator), torch.randn(6, 2, generator=generator)
    for name, scale in (("one", 1.0), ("two", 7.0)):
        adapter = make_adapter(name, {"layers.0.q": LoraFactors(a, b * scale)})
        write_adapter(adapter, tmp_path / name, dtype=torch.float32)
    points = cosine_coordinates([tmp_path / "one", tmp_path / "two"])
    assert np.abs(points[0] - points[1]).max() < 1e-3  # float32 factors, and a root of what is left of them


def test_rows_of_a_task_without_an_adapter_go_to_the_nearest(tmp_path):
    rows, groups = planted_rows()
    library = planted_library(tmp_path)
    for path in (library / "family2-task1").iterdir():
        path.unlink()
    found = fit(rows, planted_facts(groups, library), "mbc")
    assert np.array_equal(found.labels, groups)
    assert "of a task without an adapter" in found.model.notes[0]


def test_what_mbc_refuses(tmp_path, library):
    rows, groups = planted_rows()
    with pytest.raises(ConfigError, match=r"(?s)needs an adapter for each task.*cluster\.library"):
        fit(rows, planted_facts(groups), "mbc")
    with pytest.raises(ConfigError, match="there are no adapters"):
        fit(rows, planted_facts(groups, tmp_path / "nowhere"), "mbc")
    with pytest.raises(ConfigError, match="8 tasks with an adapter, 9 clusters"):
        fit(rows, planted_facts(groups, library), "mbc", k=9)
    with pytest.raises(ConfigError, match=r"(?s)named by a task.*adapters family0-task0.*tasks other"):
        fit(rows, ExampleFacts(tasks=["other"] * len(rows), library=library), "mbc", k=1)


def test_an_adapter_that_changes_nothing_is_refused(tmp_path):
    zero = LoraFactors(torch.ones(1, 4), torch.zeros(4, 1))
    write_adapter(make_adapter("zero", {"layers.0.q": zero}), tmp_path / "zero")
    with pytest.raises(NumericalError, match="changes nothing"):
        cosine_coordinates([tmp_path / "zero"])


def test_adapters_of_different_bases_are_refused():
    one = make_adapter("one", {"layers.0.q": LoraFactors(torch.ones(1, 4), torch.ones(4, 1))})
    two = make_adapter("two", {"layers.0.q": LoraFactors(torch.ones(1, 5), torch.ones(4, 1))})
    with pytest.raises(AdapterMismatchError, match=r"(?s)layers\.0\.q.*one \(4, 4\), two \(4, 5\)"):
        update_products([one, two])


def test_equal_adapters_form_fewer_groups(tmp_path):
    rows, groups = planted_rows()
    factors = {"layers.0.q": LoraFactors(torch.ones(1, 4), torch.ones(4, 1))}
    for group in range(4):
        write_adapter(make_adapter(f"f{group}", factors), tmp_path / f"family{group}")
    with pytest.raises(ConfigError, match=r"(?s)fewer groups than clusters.*lower n_clusters to 1"):
        fit(rows, planted_facts(groups, tmp_path), "mbc", k=2)


def test_an_adapter_that_two_tasks_mean_is_refused(tmp_path, library):
    with pytest.raises(AdapterError, match="two tasks mean one adapter"):
        library_tasks(library, ["family0/task0", "family0_task0"])
    found, strangers = library_tasks(library, ["family1/task0", "none"])
    assert list(found) == ["family1/task0"] and len(strangers) == 7


def test_adapters_of_no_task_are_counted(tmp_path):
    rows, groups = planted_rows()
    library = planted_library(tmp_path, n_groups=5)
    found = fit(rows, planted_facts(groups, library), "mbc")
    assert "2 adapters of the library belong to no task of the data (family4-task0, family4-task1)" in found.model.notes


def test_a_stored_model_keeps_its_groups_and_notes(tmp_path):
    rows, groups = planted_rows()
    model = fit(rows, planted_facts(groups), k=5).model
    save_clusters(model, tmp_path)
    loaded = load_clusters(tmp_path)
    for field in ("algorithm", "engine", "groups", "sizes", "notes", "sample_size", "inertia"):
        assert getattr(loaded, field) == getattr(model, field)
    path = tmp_path / "clusters.json"
    path.write_text(path.read_text().replace('"sizes": [\n', '"sizes": [\n    3,\n'))
    with pytest.raises(ArtifactError, match="6 sizes of 5 clusters"):
        load_clusters(tmp_path)
