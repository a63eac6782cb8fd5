"""Settings: what is read, what is mended, and the YAML that hides mistakes and is refused."""

import pytest

from tclora.config import RunConfig, apply_overrides, dump_config, load_config, parse_yaml, validate
from tclora.errors import ConfigError

SMALL = "output: out\nbase: {path: bundled}\ndata: {train: [a.jsonl]}\n"


def config_from(tmp_path, text, *overrides):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_defaults_are_the_papers(tmp_path):
    config = config_from(tmp_path, SMALL)
    train = config.train
    assert (train.r, train.lora_alpha, train.lora_dropout, train.lr) == (4, 16, 0.05, 1e-4)
    assert (train.warmup_fraction, train.batch_size, train.epochs) == (0.06, 16, 5)
    assert (config.cluster.n_clusters, config.cluster.sample_fraction) == (10, 0.2)


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.0e-4", ".0001", "0.0001"])
def test_a_number_is_a_number_however_it_is_written(tmp_path, written):
    assert config_from(tmp_path, SMALL + f"train: {{lr: {written}}}").train.lr == 1e-4


def test_a_quoted_exponent_stays_text():
    assert parse_yaml("a: '1e-4'")["a"] == "1e-4"


def test_overrides_reach_nested_values_and_list_items(tmp_path):
    config = config_from(
        tmp_path, SMALL + "merge: [{method: mean}, {method: svd}]", "train.lr=3e-4", "merge.1.params.rank=8"
    )
    assert config.train.lr == 3e-4
    assert config.merge[1].params == {"rank": 8}


def test_overrides_leave_their_input_alone():
    data = {"a": {"b": [1]}}
    assert apply_overrides(data, ["a.b.0=2"]) == {"a": {"b": [2]}}
    assert data == {"a": {"b": [1]}}


def test_variables_are_filled_in_with_a_default(tmp_path, monkeypatch):
    text = "output: $TCLORA_T/out\nbase: {path: '${TCLORA_U:-there}/m'}\ndata: {train: [a]}\n"
    monkeypatch.setenv("TCLORA_T", "here")
    config = config_from(tmp_path, text)
    assert (config.output, config.base.path) == ("here/out", "there/m")


def test_the_stored_config_reads_back_as_itself(tmp_path):
    config = config_from(tmp_path, SMALL + "train: {lr: 3e-4}\nmerge: [{method: svd, params: {rank: 8}}]")
    assert config_from(tmp_path, dump_config(config)) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("output: x\nbase: {path: b, dtpe: auto}\ndata: {train: [a]}", r"(?s)base\.dtpe.*did you mean 'dtype'"),
        (SMALL + "trian: {lr: 1}", "did you mean 'train'"),
        (SMALL + "train: {lr: fast}", r"train\.lr"),
        (SMALL + "train: {lr: -1}", r"(?s)greater than 0.*train\.lr"),
        (SMALL + "train: {lr: .nan}", r"finite.*train\.lr"),
        (SMALL + "cluster: {n_clusters: 0}", r"cluster\.n_clusters"),
        (SMALL + "cluster: {n_clusters: 2.5}", r"cluster\.n_clusters"),
        (SMALL + "merge: [{method: mean}, {method: mean}]", "two merges are called 'mean'"),
        (SMALL + "name: ../up", "name"),
        (SMALL + "output: again", r"(?s)'output' is given twice.*line 4"),
        ("a: &x [1]\nb: *x", r"(?s)anchors.*line 1"),
        ("a: !!python/object/apply:os.system ['true']", r"(?s)tags.*line 1"),
        ("a: !x 1", "tags"),
        ("a:\tb: 1", "cannot be read"),
        ("a: [1", "cannot be read"),
        ("- 1", "not a mapping"),
        ("", "Field required"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("output: $TCLORA_NOT_SET/x", "TCLORA_NOT_SET is not set"),
    ],
)
def test_what_hides_a_mistake_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        config_from(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lr", "not of the form"),
        ("=3", "not of the form"),
        ("train.lr.x=3", "lr"),
        ("merge.7.name=x", "list item"),
        ("train.lrr=1", "did you mean 'lr'"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path, override, said):
    with pytest.raises(ConfigError, match=said):
        config_from(tmp_path, SMALL + "train: {lr: 1e-3}\nmerge: [{method: mean}]", override)


def test_a_missing_file_and_one_that_is_not_text_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such config"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "b.yaml")


def test_validate_says_where():
    with pytest.raises(ConfigError, match=r"(?s)where +here"):
        validate(RunConfig, {}, where="here")
