"""Sizes held: small clusters dissolved or refused, large ones trimmed, by rows and by tokens."""

import numpy as np
import pytest
from planted_clusters import planted_facts, planted_library, planted_rows

from tclora.clustering import ExampleFacts, assign_clusters, fit_clusters
from tclora.config import ClusterConfig
from tclora.errors import ConfigError


def fit(rows, k=4, seed=0, facts=None, **settings):
    return fit_clusters(rows, ClusterConfig(n_init=3, **settings), n_clusters=k, seed=seed, facts=facts)


def test_clusters_below_the_minimum_are_dissolved_into_the_nearest():
    rows, groups = planted_rows()
    # 60 rows are dissolved first; the 90 that then have 112 are still too few.
    found = fit(rows, min_size=119)
    assert found.model.n_clusters == 2
    kept = groups < 2
    assert np.array_equal(found.labels[kept], groups[kept])
    assert np.array_equal(found.labels, assign_clusters(rows, found.model.centroids))
    assert "4 clusters became 2" in found.model.notes[0] and "rows: 60, 112" in found.model.notes[0]
    expected = ((rows - found.model.centroids[found.labels]) ** 2).sum(axis=1).mean()
    assert found.model.inertia == pytest.approx(float(expected), rel=1e-5)  # float32 sums here


def test_what_a_dissolved_cluster_gives_can_save_another():
    """Groups 2 and 3 are neighbors: once the smaller is gone, the other is large enough."""
    rng = np.random.default_rng(0)
    places = np.repeat([0.0, 50.0, 60.0], [100, 40, 30])
    rows = (places[:, None] + rng.standard_normal((170, 2))).astype(np.float32)
    assert fit(rows, k=3, min_size=50).model.sizes == (100, 70)


def test_clusters_below_the_minimum_are_refused_where_that_is_asked_for():
    rows, _ = planted_rows()
    with pytest.raises(ConfigError, match=r"(?s)below the minimum.*90 rows, 60 rows.*too_small: dissolve"):
        fit(rows, min_size=100, too_small="refuse")


def test_a_minimum_above_all_rows_is_refused():
    with pytest.raises(ConfigError, match="all examples together are below the minimum"):
        fit(planted_rows()[0], min_size=1000)


def test_a_token_floor_counts_tokens():
    rows, groups = planted_rows()
    tokens = np.where(groups == 3, 50, 1)  # the smallest group has the longest rows
    facts = ExampleFacts(n_tokens=tokens)
    found = fit(rows, facts=facts, min_tokens=100)
    assert found.model.n_clusters == 3
    assert sorted(np.bincount(groups)[[0, 1, 3]]) != sorted(found.model.sizes)  # the 90 went somewhere
    assert (np.bincount(found.labels, weights=tokens) >= 100).all()


def test_a_token_floor_without_lengths_is_refused():
    with pytest.raises(ConfigError, match="lengths of the examples are not known"):
        fit(planted_rows()[0], min_tokens=5)


@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_balanced_clusters_are_equal_to_a_row(k):
    rows, _ = planted_rows()
    found = fit(rows, k=k, balanced=True)
    assert max(found.model.sizes) == -(-len(rows) // k)
    assert sum(found.model.sizes) == len(rows) and min(found.model.sizes) > 0


def test_a_share_moves_no_more_rows_than_it_must_and_the_cheapest():
    rows, groups = planted_rows()
    free, capped = fit(rows), fit(rows, max_share=0.3)
    bound = -(-430 * 3 // 10)
    assert max(capped.model.sizes) <= bound
    moved = np.flatnonzero(assign_clusters(rows, capped.model.centroids) != capped.labels)
    assert len(moved) == free.model.sizes[0] - bound
    assert (groups[moved] == 0).all()
    distances = ((rows[:, None] - free.model.centroids[None]) ** 2).sum(axis=2)
    costs = np.partition(distances[:, 1:], 0, axis=1)[:, 0] - distances[:, 0]
    stayed = np.setdiff1d(np.flatnonzero(groups == 0), moved)
    assert costs[moved].max() <= costs[stayed].min()
    assert f"{len(moved)} examples are not in their nearest cluster" in capped.model.notes[0]


def test_balance_by_tokens_counts_tokens():
    rows, _ = planted_rows()
    tokens = np.random.default_rng(0).integers(1, 40, len(rows))
    found = fit(rows, facts=ExampleFacts(n_tokens=tokens), balanced=True, balance_by="tokens")
    loads = np.bincount(found.labels, weights=tokens)
    # Each of three closed clusters may stop up to one example short of its share; the last one has what is left.
    assert loads.max() <= tokens.sum() / 4 + 3 * 40


def test_a_share_that_cannot_hold_all_rows_is_refused():
    with pytest.raises(ConfigError, match=r"(?s)cannot hold all examples.*at least 0\.25"):
        fit(planted_rows()[0], max_share=0.2)


def test_a_share_that_nobody_passes_changes_nothing():
    rows, _ = planted_rows()
    assert np.array_equal(fit(rows).labels, fit(rows, max_share=0.5).labels)
    assert fit(rows, max_share=0.5).model.notes == ()


def test_tasks_are_not_torn_apart_for_balance(tmp_path):
    rows, groups = planted_rows()
    facts = planted_facts(groups, planted_library(tmp_path))
    for algorithm in ("task", "mbc"):
        with pytest.raises(ConfigError, match="keeps the examples of a task together"):
            fit(rows, facts=facts, algorithm=algorithm, balanced=True)


def test_small_tasks_join_the_nearest_as_a_whole():
    rows, groups = planted_rows()
    rows[groups == 3] = rows[groups == 2][:60]  # the last group looks like the third
    found = fit(rows, facts=planted_facts(groups), algorithm="task", min_size=70)
    assert np.array_equal(found.labels, [[0, 2, 1, 1][group] for group in groups])  # 160, 120 and 150 rows
    assert found.model.groups


def test_random_clusters_follow_the_sizes_that_were_held():
    rows, _ = planted_rows()
    settings = {"min_size": 100, "max_share": 0.6}
    assert fit(rows, algorithm="random", **settings).model.sizes == fit(rows, **settings).model.sizes


def test_equal_inputs_give_equal_bytes_when_balanced():
    rows, _ = planted_rows()
    one, two = (fit(rows, balanced=True, k=5) for _ in range(2))
    assert one.labels.tobytes() == two.labels.tobytes()
