"""Rows to learn from: drawn by the seed, even or by size, and without responses where no label may be read."""

import json

import pytest

from tclora.config import MergeConfig
from tclora.config.experiment_merges import ContestantConfig, LearnConfig
from tclora.data import Example
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS
from tclora.pipeline.experiments.learn import learning_rows
from tclora.pipeline.merges.learn_rows import drawn_pools, without_responses
from tclora.pipeline.stages.learn import check_run_learning

ROWS = {
    name: [Example(f"{name} {k}", output="said") for k in range(n)] for name, n in {"a": 60, "b": 30, "c": 2}.items()
}


def test_even_pools_have_so_many_rows_each_and_no_more_than_there_are():
    assert [len(pool) for pool in drawn_pools(ROWS, 10, "even", 0).values()] == [10, 10, 2]


def test_pools_by_size_have_the_shares_of_the_rows():
    """30 rows in all, 60 : 30 : 2 of 92; one of those that would have none."""
    assert [len(pool) for pool in drawn_pools(ROWS, 10, "size", 0).values()] == [20, 10, 1]
    assert [len(pool) for pool in drawn_pools(ROWS, 1, "size", 0).values()] == [2, 1, 1]


def test_the_seed_decides_what_is_drawn_and_the_file_its_order():
    one, again, other = (drawn_pools(ROWS, 10, "even", seed) for seed in (0, 0, 1))
    assert one == again != other
    for name, pool in one.items():
        places = [ROWS[name].index(row) for row in pool]
        assert places == sorted(set(places))


def test_responses_are_taken_away_and_a_text_that_asks_nothing_stays():
    found = without_responses([Example("Name a fruit.", output="apple"), Example("", output="Once upon a time.")])
    assert [row.output for row in found] == ["", "Once upon a time."]
    assert found[0].instruction == "Name a fruit."


@pytest.mark.parametrize("method", ["regmean", "adamerging", "distill", "lorahub", "learned_cat"])
def test_in_an_experiment_only_methods_that_learn_from_labels_see_any(tmp_path, method):
    files = {name: tmp_path / f"{name}.jsonl" for name in ROWS}
    for name, rows in ROWS.items():
        files[name].write_text(
            "".join(json.dumps({"instruction": r.instruction, "output": r.output}) + "\n" for r in rows)
        )
    asked = ContestantConfig(method=method, learn=LearnConfig(rows=10, share="size"))
    found = learning_rows(files, asked)
    assert [len(pool) for pool in found.values()] == [20, 10, 1]
    labelled = method in ("lorahub", "learned_cat")
    assert {row.output for pool in found.values() for row in pool} == {"said" if labelled else ""}


def test_both_settings_know_the_two_ways_and_no_third():
    assert MergeConfig(method="distill").learn_share == LearnConfig().share == "even"
    with pytest.raises(ValueError, match="'even' or 'size'"):
        MergeConfig.model_validate({"method": "distill", "learn_share": "rows"})


@pytest.mark.parametrize("method", [name for name in MERGE_METHODS if "learns" in MERGE_METHODS.entry(name).facts])
def test_only_regression_takes_weights_beside_what_it_learns(method):
    merge = MergeConfig(method=method, weights="size")
    if method == "regmean":
        check_run_learning(merge)
        return
    with pytest.raises(ConfigError, match=f"'{method}' learns its weights"):
        check_run_learning(merge)
