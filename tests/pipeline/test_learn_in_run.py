"""Methods that learn, in a run: from training rows of their clusters, kept beside the merge, and not done twice."""

import json

import pytest
from test_run import small_config

from tclora.adapters import read_adapter, weights_digest
from tclora.config import MergeConfig, load_config
from tclora.data import read_examples
from tclora.errors import ConfigError
from tclora.merging import merge_adapters, parse_params
from tclora.merging.learning import read_learned
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.run import run_pipeline
from tclora.pipeline.stages.learn import check_run_learning, row_files

MERGES = [
    {"method": "regmean", "params": {"rank": 2, "max_tokens": 64}, "weights": "size", "learn_rows": 3},
    {"method": "adamerging", "params": {"steps": 1, "batch_size": 1}, "learn_rows": 2},
    {"method": "learned_cat", "params": {"steps": 1, "batch_size": 2}, "learn_rows": 2},
    {"method": "distill", "params": {"cp_rank": 2, "steps": 1, "max_new_tokens": 2}, "learn_rows": 2},
    {"method": "mean"},
]
CONTROL = {"r": 2, "lr": 1e-3, "batch_size": 8, "epochs": 1, "max_steps": 1, "controls": ["random_clusters"]}


def learned_run(folder, merges, **changes):
    config = load_config(small_config(folder, merge=merges, **changes), [])
    run_pipeline(config, until="merge")
    return config, RunFolder(folder / "run")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One method that learns, one that does not."""
    return learned_run(tmp_path_factory.mktemp("learns"), [MERGES[0], MERGES[-1]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All of them, and a control library beside the clusters."""
    return learned_run(tmp_path_factory.mktemp("all-learn"), MERGES, train=CONTROL)


def test_what_was_learned_is_kept_and_gives_the_same_merge_again(quick):
    check_kept(*quick, "regmean")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["regmean", "adamerging", "learned_cat", "distill"])
def test_what_every_method_learned_is_kept(whole, method):
    check_kept(*whole, method)


def check_kept(config, run, method):
    """The merge can be had again from the adapters and what was learned, without base or rows."""
    merge = next(one for one in config.merge if one.method == method)
    adapters = [read_adapter(run.library / f"cluster-{i}") for i in range(2)]
    learned = read_learned(run.merge / method)
    assert learned.method == method and learned.n_examples == 2 * merge.learn_rows
    params, weights = learned.settle(parse_params(method, merge.params), adapters)
    if weights is None and merge.weights == "size":
        sizes = [len(read_examples(run.cluster / f"cluster-{i}.train.jsonl")) for i in range(2)]
        weights = [size / sum(sizes) for size in sizes]
    again = merge_adapters(adapters, method, params=params, adapter_weights=weights).adapter
    stored = read_adapter(run.merge / method)
    for name, factors in again.modules.items():
        # Written in bf16: 8 bits of each factor.
        assert (factors.delta() - stored.modules[name].delta()).norm() <= 0.02 * factors.delta().norm()


def test_a_method_that_learns_nothing_reads_no_rows(quick):
    config, run = quick
    assert not (run.merge / "mean" / "learned.json").exists()
    # So the number of rows is no setting of it: another one merges nothing again.
    manifest = (run.merge / "mean" / "manifest.json").read_bytes()
    merges = tuple(
        one.model_copy(update={"learn_rows": 5}) if one.method in ("mean", "regmean") else one for one in config.merge
    )
    run_pipeline(config.model_copy(update={"merge": merges}), until="merge")
    assert (run.merge / "mean" / "manifest.json").read_bytes() == manifest
    assert read_learned(run.merge / "regmean").n_examples == 10


@pytest.mark.slow
def test_the_control_learns_from_its_own_groups(whole):
    _, run = whole
    folder = run.merge_controls / "random-clusters" / "adamerging"
    learned = read_learned(folder)
    digests = {
        weights_digest(read_adapter(path)) for path in (run.controls / "random-clusters").iterdir() if path.is_dir()
    }
    assert set(learned.digests) <= digests
    assert (
        json.loads((folder / "learned.json").read_text())["weights"]
        != json.loads((run.merge / "adamerging" / "learned.json").read_text())["weights"]
    )


@pytest.mark.parametrize("weights", ["size", (0.5, 0.5)])
def test_weights_beside_a_method_that_learns_them_are_refused_before_any_work(tmp_path, weights):
    merges = [{"method": "distill", "weights": weights}]
    config = load_config(small_config(tmp_path, merge=merges), [])
    with pytest.raises(ConfigError, match=r"(?s)'distill' learns its weights.*merge 'distill'"):
        run_pipeline(config)
    assert not (tmp_path / "run" / "data").exists()
    check_run_learning(MergeConfig(method="regmean", weights=weights))  # where they count, they are taken


def test_an_adapter_without_rows_is_named(tmp_path):
    merge = MergeConfig(method="regmean", name="mine")
    assert row_files(merge, tmp_path, {"a": "a.jsonl"}) == (str(tmp_path / "a.jsonl"),)
    with pytest.raises(ConfigError, match=r"(?s)'regmean' learns from rows.*merge 'mine'.*bought"):
        row_files(merge, tmp_path, {"a": "a.jsonl", "bought": None})
