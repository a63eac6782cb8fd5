"""`--verify`: its figures against dense float64, its bound against rounding, and planted faults that it must find."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_oracle import peft_deltas, tiny_model, trained
from safetensors.torch import load_file, save_file
from stacks import write_peft

from tclora.config import merge_file_of
from tclora.errors import AdapterMismatchError, ConfigError, MissingExtraError, NumericalError
from tclora.models import compare_forward
from tclora.pipeline.checks.raw_lora import RawLora
from tclora.pipeline.merges import folders as door
from tclora.pipeline.merges.folders import MergeRequest, merge_folders
from tclora.pipeline.merges.verified_table import verified_markdown, verified_rows
from tclora.pipeline.merges.verify_file import check_file

BOTH = ("self_attn.q_proj", "mlp.up_proj")
MODULE = "model.layers.0.mlp.up_proj"


@pytest.fixture
def library(tmp_path):
    """Folders that differ in rank, scale rule, patterns and modules, and their dense float64 deltas."""
    made = {
        "plain": {"r": 4, "lora_alpha": 16, "leaves": BOTH},
        "rslora": {"r": 8, "lora_alpha": 16, "use_rslora": True, "leaves": BOTH},
        "patterns": {"r": 4, "lora_alpha": 8, "ranks": {"q_proj": 2}, "alphas": {"q_proj": 32}, "leaves": BOTH},
        "one": {"r": 2, "lora_alpha": 1, "leaves": ("mlp.up_proj",), "dtype": torch.bfloat16},
    }
    deltas = [write_peft(tmp_path / name, v.pop("r"), seed, **v) for seed, (name, v) in enumerate(made.items())]
    return [tmp_path / name for name in made], deltas


def request_for(folders, out, *, verify=True, **keys) -> MergeRequest:
    keys = {"adapters": [str(folder) for folder in folders], "merge_method": "mean", **keys}
    return MergeRequest(merge_file_of(keys, where="here"), str(out), verify=verify)


def dense_sum(deltas, weights) -> dict[str, torch.Tensor]:
    total: dict[str, torch.Tensor] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        for name, matrix in delta.items():
            total[name] = total.get(name, 0) + weight * matrix
    return total


def test_the_raw_reading_is_the_scaled_delta_of_the_formula(library):
    for folder, deltas in zip(*library, strict=True):
        raw = RawLora(folder)
        assert raw.paths == tuple(sorted(deltas))
        for path, delta in deltas.items():
            lora_b, lora_a, scale = raw.factors(path)
            # One multiplication by the scale in another order.
            torch.testing.assert_close(scale * (lora_b @ lora_a), delta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "scale"),
    [("layers.0.mlp.up_proj", 3.0), (r".*\.0\..*up_proj", 3.0), (r"(m|x)+lp.up_proj", 3.0), ("proj", 1.0)],
)
def test_the_raw_reading_follows_patterns_as_peft_does(tmp_path, key, scale):
    write_peft(tmp_path / "a", 2, 0, lora_alpha=2, alpha_pattern={key: 6})
    assert RawLora(tmp_path / "a").factors(MODULE)[2] == scale


@pytest.mark.parametrize(("dtype", "rounding"), [("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 1.6e-2)])
@pytest.mark.parametrize(("method", "factor"), [("mean", 1.0), ("cat", 1.0), ("task_arithmetic", 0.5)])
def test_the_figure_is_the_distance_to_the_weighted_sum(library, tmp_path, dtype, rounding, method, factor):
    folders, deltas = library
    weights = [0.7, -0.4, 0.2, 1.1]
    params = {"coefficient": 0.5} if method == "task_arithmetic" else {}
    keys = {"merge_method": method, "weights": weights, "dtype": dtype, "parameters": {"scale": -2, **params}}
    record = merge_folders(request_for(folders, tmp_path / "out", **keys))
    raw = RawLora(tmp_path / "out")
    errors = {}
    for path, wanted in dense_sum(deltas, [-2 * factor * weight for weight in weights]).items():
        lora_b, lora_a, scale = raw.factors(path)
        errors[path] = float((scale * (lora_b @ lora_a) - wanted).norm() / wanted.norm())
    found = record.verified["file"]
    # The check samples entries; on modules of 40 x 16 it sees most of them, so the figures agree to a part.
    assert found["relative_error"] == pytest.approx(max(errors.values()), rel=0.3)
    # Four units of rounding: two factors, and sums that cancel a little.
    assert 0 < found["relative_error"] <= found["bound"]
    assert found["relative_error"] < rounding
    assert found["against"] == "the weighted sum of the source files"
    assert found["n_modules"] == 4


@pytest.mark.parametrize("method", ["svd", "tc_lora", "iso_c", "ties"])
def test_other_methods_are_compared_with_their_own_result(library, tmp_path, method):
    params = {"cp_rank": 3, "max_iter": 20, "n_starts": 1} if method == "tc_lora" else {}
    keys = {"merge_method": method, "parameters": params, "dtype": "fp32"}
    verified = merge_folders(request_for(library[0], tmp_path / "out", **keys)).verified
    assert verified["file"]["against"] == "the method's result before rounding"
    assert verified["file"]["relative_error"] < 1e-6
    alone = [check["relative_error"] for check in verified["identity"]]
    assert alone == [None] * 4 if method == "iso_c" else all(error <= 1e-6 for error in alone)
    model = verified["model"]
    assert 0 <= model["min"] <= model["median"] <= model["worst"]
    assert model["worst_module"] in json.loads((tmp_path / "out" / "merge.json").read_text())["modules"]


def test_settings_that_differ_by_module_are_verified_with_what_holds_there(library, tmp_path):
    folders, deltas = library
    keys = {
        "dtype": "fp32",
        "weights": [1, 0, 0, 0],
        "overrides": [
            {"modules": "q_proj", "weights": [0, 1, 0, 0], "parameters": {"scale": 3}},
            {"modules": "layers.1.mlp", "weights": [0, 0, 0.5, 2]},
        ],
    }
    assert merge_folders(request_for(folders, tmp_path / "out", **keys)).verified["file"]["relative_error"] < 1e-6
    lora_b, lora_a, scale = RawLora(tmp_path / "out").factors("model.layers.0.self_attn.q_proj")
    wanted = 3 * deltas[1]["model.layers.0.self_attn.q_proj"]
    assert (scale * (lora_b @ lora_a) - wanted).norm() <= 1e-6 * wanted.norm()


@settings(max_examples=8, deadline=None)
@given(
    weights=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
    method=st.sampled_from(["mean", "svd", "cat"]),
    size=st.sampled_from([1e-4, 1.0, 100.0]),
)
def test_a_sound_merge_always_verifies(tmp_path_factory, weights, dtype, method, size):
    """Sums that cancel, weights of zero, ranks beyond the module's size: the bound is rounding's own."""
    tmp_path = tmp_path_factory.mktemp("sound")
    for i in range(4):
        # The same seed twice: equal adapters, whose difference cancels to nothing.
        write_peft(tmp_path / f"a{i}", 5, i % 3, lora_alpha=5 * size)
    keys = {"merge_method": method, "weights": weights, "dtype": dtype}
    record = merge_folders(request_for([tmp_path / f"a{i}" for i in range(4)], tmp_path / "out", **keys))
    assert record.verified["file"]["relative_error"] <= record.verified["file"]["bound"]


def spoil(folder: Path, fault: str) -> None:
    """Make one thing wrong in a written folder."""
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, fields = load_file(weights), json.loads(config.read_text())
    name_a, name_b = (f"base_model.model.{MODULE}.lora_{side}.weight" for side in "AB")
    if fault == "alpha":
        fields["lora_alpha"] *= 1.05
    if fault == "rslora":
        fields["use_rslora"] = True
    if fault == "sign":
        tensors[name_b] = -tensors[name_b]
    if fault == "two percent":
        tensors[name_b] = tensors[name_b] * 1.02
    if fault == "one entry of lora_B":
        tensors[name_b][3, 0] += tensors[name_b].abs().max()
    if fault == "one entry of lora_A":
        tensors[name_a][0, 5] += tensors[name_a].abs().max()
    if fault == "swapped modules":
        for side in "AB":
            first, second = (f"base_model.model.model.layers.{n}.mlp.up_proj.lora_{side}.weight" for n in (0, 1))
            tensors[first], tensors[second] = tensors[second].clone(), tensors[first].clone()
    if fault == "a missing module":
        del tensors[name_a], tensors[name_b]
    if fault == "nan":
        tensors[name_b][0, 0] = float("nan")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    config.write_text(json.dumps(fields))


FAULTS = {
    "alpha": "does not hold the merge",
    "rslora": "does not hold the merge",
    "sign": "does not hold the merge",
    "two percent": "does not hold the merge",
    "one entry of lora_B": "does not hold the merge",
    "one entry of lora_A": "does not hold the merge",
    "swapped modules": "does not hold the merge",
    "a missing module": "does not hold the modules",
    "nan": "does not hold the merge",
}


@pytest.mark.parametrize("method", ["mean", "svd"])
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_in_the_written_file_fails_and_leaves_nothing(library, tmp_path, monkeypatch, fault, method):
    written = door.write_merged

    def spoiled(result, staging, **keys):
        record = written(result, staging, **keys)
        spoil(staging, fault)
        return record

    monkeypatch.setattr(door, "write_merged", spoiled)
    with pytest.raises(NumericalError, match=FAULTS[fault]) as caught:
        merge_folders(request_for(library[0], tmp_path / "out", merge_method=method))
    assert "up_proj" in str(caught.value) or fault in ("alpha", "rslora")
    assert caught.value.exit_status == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_fault_in_the_merge_itself_is_found_for_linear_methods(library, tmp_path, monkeypatch):
    """Planted: the weights reach the merge in the wrong order. The file is written faithfully."""
    merged = door.merge_adapters
    monkeypatch.setattr(
        door, "merge_adapters", lambda a, m, **k: merged(a, m, **k | {"adapter_weights": k["adapter_weights"][::-1]})
    )
    with pytest.raises(NumericalError, match="does not hold the merge"):
        merge_folders(request_for(library[0], tmp_path / "out", weights=[1, 2, 3, 4]))


def test_an_adapter_that_does_not_come_back_is_named(library, tmp_path, monkeypatch):
    from tclora.pipeline.merges import verify as module

    merged = module.merge_adapters
    monkeypatch.setattr(
        module, "merge_adapters", lambda a, m, **k: merged(a, m, scale=1.01 if a[0].name == "rslora" else 1.0, **k)
    )
    with pytest.raises(NumericalError, match=r"(?s)did not come back.*rslora, module model\.layers"):
        merge_folders(request_for(library[0], tmp_path / "out"))


def test_without_verify_nothing_is_checked_or_claimed(library, tmp_path):
    record = merge_folders(request_for(library[0], tmp_path / "out", verify=False))
    assert record.verified == {}
    assert "Verified" not in (tmp_path / "out" / "README.md").read_text()


def test_the_figures_stand_in_the_record_the_card_and_the_table(library, tmp_path):
    record = merge_folders(request_for(library[0], tmp_path / "out"))
    stored = json.loads((tmp_path / "out" / "merge.json").read_text())["verified"]
    rows = verified_rows(stored)
    assert rows == verified_rows(record.verified)
    assert [row[0] for row in rows[:4]] == [f"{name.name} alone at weight 1" for name in library[0]]
    card = (tmp_path / "out" / "README.md").read_text()
    assert verified_markdown(stored) in card
    assert card.count("## Verified") == 1


@pytest.mark.parametrize(("r", "passes", "fails"), [(1, 0.0076, 0.0120), (64, 0.0100, 0.0120)])
def test_the_check_can_fail_at_the_edge_of_its_bound(tmp_path, r, passes, fails):
    """Two roundings to bfloat16 may move an entry by 2**-7 = 0.0078, and many of them by 2**-7 * sqrt(2) = 0.0110."""
    write_peft(tmp_path / "a", r, 0, lora_alpha=r, dtype=torch.bfloat16)
    raw = RawLora(tmp_path / "a")

    def off_by(share: float):
        def terms(path):
            lora_b, lora_a, scale = raw.factors(path)
            return [(lora_b * scale * (1 + share), lora_a)]

        return terms

    assert check_file(tmp_path / "a", off_by(0.0), raw.paths, "itself").relative_error == 0.0
    check_file(tmp_path / "a", off_by(passes), raw.paths, "itself")
    with pytest.raises(NumericalError, match="does not hold the merge"):
        check_file(tmp_path / "a", off_by(fails), raw.paths, "itself")


@pytest.fixture(scope="module", params=["llama", "gpt2", "tied"])
def base_and_adapters(request, tmp_path_factory):
    """A base on disk without a tokenizer, and two adapters that PEFT saved; one shares embedding and output layer."""
    import copy

    tmp_path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = tiny_model("gpt2" if request.param == "gpt2" else "llama").eval()
    if request.param == "tied":
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(tmp_path / "base")
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "tied": ["embed_tokens", "v_proj"]}[request.param]
    folders, deltas = [], []
    for i, r in enumerate((4, 2)):
        wrapped = trained(copy.deepcopy(model), r=r, lora_alpha=r, target_modules=targets)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.data *= 0.2 + 0.1 * i
        wrapped.save_pretrained(tmp_path / f"a{i}", save_embedding_layers=False)
        folders.append(tmp_path / f"a{i}")
        # PEFT gives the delta of an embedding as its weight lies, (vocabulary, dim).
        deltas.append({path: d.T if "embed" in path else d for path, d in peft_deltas(wrapped).items()})
    return tmp_path / "base", folders, deltas


def test_the_forward_agrees_with_the_deltas_added_by_hand(base_and_adapters, tmp_path):
    base, folders, _ = base_and_adapters
    keys = {"base_model": str(base), "weights": [0.7, -0.4], "dtype": "fp32"}
    forward = merge_folders(request_for(folders, tmp_path / "out", **keys)).verified["forward"]
    # float32 forwards, a few layers deep, against an effect of the size of the logits.
    assert forward["against_hand"] <= forward["allowed"]
    assert forward["against_hand"] < 1e-4 < 0.01 < forward["effect"]
    assert forward["against_sources"] < 1e-4


def test_the_forward_check_sees_wrong_deltas_and_leaves_no_trace(base_and_adapters, tmp_path):
    """Planted: the deltas that are added by hand are those of one adapter, not of the merge."""
    base, folders, deltas = base_and_adapters
    merge_folders(request_for(folders, tmp_path / "out", verify=False, dtype="fp32"))
    right = {path: (lambda path=path: sum(d[path].double() for d in deltas) / 2) for path in deltas[0]}
    wrong = {path: (lambda path=path: deltas[0][path]) for path in deltas[0]}
    state = torch.random.get_rng_state()
    found = compare_forward(base, tmp_path / "out", right, sources=wrong)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.against_hand < 1e-4
    assert found.against_sources is not None
    assert found.against_sources > 1e-2
    # The weights were put back between the two: the same question has the same answer.
    assert compare_forward(base, tmp_path / "out", wrong, sources=right).against_sources == found.against_hand


def test_a_forward_that_disagrees_fails(base_and_adapters, tmp_path, monkeypatch):
    from tclora.models import peft_forward

    base, folders, _ = base_and_adapters
    in_peft = peft_forward._in_peft
    monkeypatch.setattr(peft_forward, "_in_peft", lambda model, adapter, ids: in_peft(model, adapter, ids) + 0.5)
    with pytest.raises(NumericalError, match=r"(?s)PEFT's forward.*logits up to 5\."):
        merge_folders(request_for(folders, tmp_path / "out", base_model=str(base)))
    assert not (tmp_path / "out").exists()


def family_case(tmp_path, model, task_type: str, targets) -> Path:
    """A base of this model, and a PEFT adapter of it."""
    model.save_pretrained(tmp_path / "base")
    trained(model, r=2, target_modules=targets, task_type=task_type).save_pretrained(tmp_path / "a")
    return tmp_path / "a"


SMALL = {"vocab_size": 40, "d_model": 16, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
BERT = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["t5", "bart", "bert"])
def test_the_forward_check_takes_the_class_that_the_base_names(family, tmp_path):
    import transformers as tf

    torch.manual_seed(0)
    layers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    model, task, targets = {
        "t5": lambda: (
            tf.T5ForConditionalGeneration(tf.T5Config(**SMALL, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
            "SEQ_2_SEQ_LM",
            ["q", "v"],
        ),
        "bart": lambda: (
            tf.BartForConditionalGeneration(tf.BartConfig(**SMALL, **layers, **heads, bos_token_id=1)),
            "SEQ_2_SEQ_LM",
            ["q_proj", "fc1"],
        ),
        "bert": lambda: (tf.BertForTokenClassification(tf.BertConfig(**BERT)), None, ["query", "value"]),
    }[family]()
    adapter = family_case(tmp_path, model, task, targets)
    record = merge_folders(request_for([adapter], tmp_path / "out", base_model=str(tmp_path / "base"), dtype="fp32"))
    forward = record.verified["forward"]
    assert forward["against_hand"] < 1e-4 < forward["effect"]


@pytest.mark.filterwarnings("ignore")
def test_a_base_that_reads_no_text_is_refused_before_the_merge(tmp_path, monkeypatch):
    import transformers as tf

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=8, patch_size=4))
    targets = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear and "0" in name]
    adapter = family_case(tmp_path, model, None, targets)
    monkeypatch.setattr("tclora.pipeline.merges.request.check_base", lambda *_: [])
    monkeypatch.setattr(door, "_merge", lambda *_: pytest.fail("it was merged first"))
    with pytest.raises(ConfigError, match=r"(?s)gives a model tokens.*reads pixel_values.*leave out --base"):
        merge_folders(request_for([adapter], tmp_path / "out", base_model=str(tmp_path / "base")))


@pytest.mark.filterwarnings("ignore")
def test_a_base_on_which_peft_does_not_load_the_merge_is_named(base_and_adapters, tmp_path):
    base, folders, _ = base_and_adapters
    merge_folders(request_for(folders, tmp_path / "out", verify=False))
    config = tmp_path / "out" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["no_such"]}))
    with pytest.raises(AdapterMismatchError, match=r"(?s)PEFT does not load the merged adapter.*no_such"):
        compare_forward(base, tmp_path / "out", {})


def test_a_missing_library_is_named_with_its_extra(base_and_adapters, tmp_path, monkeypatch):
    base, folders, _ = base_and_adapters
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"(?s)needs peft.*tclora\[library\]"):
        merge_folders(request_for(folders, tmp_path / "out", base_model=str(base)))


def test_a_base_of_headers_alone_cannot_be_run(base_and_adapters, tmp_path):
    import shutil

    base, folders, _ = base_and_adapters
    shutil.copytree(base, tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({"model_type": "none", **{}}))
    with pytest.raises(ConfigError, match="cannot be loaded for the forward check"):
        compare_forward(tmp_path / "base", folders[0], {})
