"""A merge's YAML file: what is read, what is written back, what tells it from a run, and what is refused by name."""

import pytest

from tclora.config import (
    AdapterEntry,
    Filtered,
    MergeFile,
    OverrideEntry,
    config_kind,
    dump_merge_file,
    load_merge_file,
    merge_file_of,
    parse_yaml,
    plain_merge_file,
)
from tclora.errors import ConfigError

SMALL = "adapters: [A, B]\n"
WHOLE = """
merge_method: ties
models:
  - A
  - model: B
    parameters: {weight: 0.3, density: [0.2, 0.8]}
  - {adapter: org/c, revision: abc, sha256: "%s", parameters: {weight: [{filter: self_attn, value: 0.5}, {value: 1}]}}
parameters: {lambda: 0.7, weight: 1, normalize: true, sign-method: total}
overrides:
  - {modules: layers.0-7, weights: [1, 0, 0], parameters: {density: 0.1}}
  - {modules: "re:.*q_proj", parameters: {scale: 2}}
dtype: bfloat16
seed: 3
base_model: org/base
""" % ("0" * 64)


def merge_from(tmp_path, text, *overrides):
    path = tmp_path / "merge.yaml"
    path.write_text(text)
    return load_merge_file(path, overrides)


def test_names_alone_are_a_merge(tmp_path):
    assert merge_from(tmp_path, SMALL) == MergeFile(adapters=(AdapterEntry(adapter="A"), AdapterEntry(adapter="B")))


def test_every_key_is_read(tmp_path):
    file = merge_from(tmp_path, WHOLE)
    assert file.merge_method == "ties"
    assert [entry.adapter for entry in file.adapters] == ["A", "B", "org/c"]
    assert file.adapters[1].parameters == {"weight": 0.3, "density": (0.2, 0.8)}
    assert file.adapters[2].parameters == {"weight": (Filtered(0.5, "self_attn"), Filtered(1))}
    assert file.adapters[2].revision == "abc"
    assert file.parameters == {"scale": 0.7, "weight": 1, "normalize": True, "sign_method": "total"}
    assert file.overrides[0] == OverrideEntry(modules="layers.0-7", weights=(1, 0, 0), parameters={"density": 0.1})
    assert (file.dtype, file.seed, file.base_model) == ("bf16", 3, "org/base")


def test_what_is_written_back_is_the_same_merge(tmp_path):
    for text in (SMALL, WHOLE):
        file = merge_from(tmp_path, text)
        assert merge_from(tmp_path, dump_merge_file(file)) == file
        assert merge_file_of(plain_merge_file(file), where="x") == file


def test_a_weight_survives_writing_to_the_last_bit(tmp_path):
    file = MergeFile(adapters=(AdapterEntry(adapter="A"),), weights=(1 / 3,))
    assert merge_from(tmp_path, dump_merge_file(file)).weights == (1 / 3,)


@pytest.mark.parametrize(
    ("written", "meant"), [("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32"), ("bf16", "bf16")]
)
def test_a_dtype_has_two_names(tmp_path, written, meant):
    assert merge_from(tmp_path, SMALL + f"dtype: {written}").dtype == meant


def test_overrides_reach_into_the_file(tmp_path):
    file = merge_from(tmp_path, SMALL, "parameters.cp_rank=8", "merge_method=tc_lora", "adapters.1=C")
    assert file.parameters == {"cp_rank": 8}
    assert file.adapters[1].adapter == "C"


def test_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("TCLORA_T", "there")
    assert merge_from(tmp_path, "adapters: ['$TCLORA_T/a']").adapters[0].adapter == "there/a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "merge_metod: ties", r"(?s)merge_metod.*merge\.yaml.*did you mean 'merge_method'"),
        ("models: [{model: A, paramters: {}}]", r"(?s)models\.0\.paramters.*did you mean 'parameters'"),
        ("models: [{modl: A}]", r"models\.0"),
        ("models: [A]\nadapters: [B]", "models"),
        ("adapters: []", "adapters"),
        ("merge_method: mean", r"(?s)Field required: adapters"),
        (SMALL + "dtype: int8", r"(?s)no such output dtype.*bf16, fp16, fp32: dtype"),
        (SMALL + "seed: -1", "seed"),
        (SMALL + "parameters: {density: .nan}", r"finite number: parameters\.density"),
        (SMALL + "parameters: {density: [0.1, high]}", r"gradient of numbers.*parameters\.density"),
        (SMALL + "parameters: {density: []}", r"gradient of numbers.*parameters\.density"),
        (SMALL + "parameters: {density: [{filtr: mlp, value: 1}]}", r"(?s)\{filter, value\}; found the keys filtr"),
        (SMALL + "parameters: {density: [{filter: mlp}]}", r"found the keys filter"),
        (SMALL + "parameters: {density: [{filter: 3, value: 1}]}", r"found the keys"),
        (SMALL + "parameters: {density: [{value: [{value: 1}]}]}", "filter inside a filter"),
        (SMALL + "parameters: {density: {value: {a: 1}}}", r"\{filter, value\}"),
        (SMALL + "parameters: {lambda: 1, scale: 2}", "'scale' is given twice, under two spellings"),
        (SMALL + "weights: [1, 2]\nparameters: {weight: 1}", "not both"),
        ("adapters: [{adapter: A, parameters: {weight: 1}}]\nweights: [1]", "not both"),
        (SMALL + "overrides: [{weights: [1, 2]}]", r"overrides\.0\.modules"),
        (SMALL + "overrides: [{modules: x, weight: [1]}]", r"(?s)overrides\.0\.weight.*did you mean 'weights'"),
        ("adapters: [{adapter: A, sha256: abc}]", r"adapters\.0\.sha256"),
        ("adapters: [A]\nadapters: [B]", "given twice"),
        ("adapters: [3]", r"adapters\.0"),
    ],
)
def test_what_is_wrong_is_refused_by_file_and_key(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        merge_from(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slices: [{sources: [{model: A, layer_range: [0, 4]}]}]", r"(?s)'slices' is not supported.*its base"),
        (SMALL + "tokenizer_source: union", r"(?s)'tokenizer_source' is not supported.*no tokenizer"),
        (SMALL + "chat_template: auto", r"(?s)'chat_template' is not supported"),
        (SMALL + "out_dtype: float16", r"(?s)'out_dtype' is not supported.*`dtype`"),
        ("modules: {text: {models: [A]}}", r"(?s)'modules' is not supported"),
        (SMALL + "parameters: {int8_mask: true}", r"(?s)'parameters\.int8_mask' is not supported.*masks"),
        ("models: [{model: A, parameters: {int8_mask: 1}}]", r"'adapters\.0\.parameters\.int8_mask'"),
    ],
)
def test_keys_of_mergekit_without_a_meaning_here_are_refused_with_the_reason(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        merge_from(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SMALL, "merge"),
        ("merge_method: mean", "merge"),
        ("models: [A]\nseed: 1", "merge"),
        ("slices: []", "merge"),
        ("output: x\nbase: {path: b}\ndata: {train: [a]}\nmerge: [{method: mean}]", "run"),
        ("data: {train: [a]}", "run"),
    ],
)
def test_a_merge_is_told_from_a_run_by_its_keys(text, kind):
    assert config_kind(parse_yaml(text), where="c.yaml") == kind


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1", r"(?s)neither a merge nor a run.*c\.yaml.*keys seed.*output, base, data"),
        ("{}", r"(?s)neither.*keys none"),
        ("adapters: [A]\ndata: {train: [a]}", "mixes a merge and a run"),
    ],
)
def test_what_is_neither_or_both_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        config_kind(parse_yaml(text), where="c.yaml")


@pytest.mark.parametrize(
    "name", ["1e4", "5e-5", "+.1E3", "pay$day", "a$HOME/b", "${X:-y}", "$$", "100$", "yes", "007", "~"]
)
def test_an_adapter_of_any_name_survives_writing(tmp_path, name):
    file = MergeFile(adapters=(AdapterEntry(adapter=name),))
    assert merge_from(tmp_path, dump_merge_file(file)) == file


def test_no_truth_value_is_a_weight(tmp_path):
    with pytest.raises(ConfigError, match="weights"):
        merge_from(tmp_path, "adapters: [A, B]\nweights: [yes, no]")
    with pytest.raises(ConfigError, match="weights"):
        merge_from(tmp_path, "adapters: [A, B]\noverrides: [{modules: x, weights: [true, 1]}]")
