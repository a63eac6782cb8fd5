"""What servers would do with an adapter, against their own decision rules written out anew, and PEFT really run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import server_loaders
import torch
from adapter_files import PATHS, PREFIX, save_adapter, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_oracle import peft_deltas, tiny_model, trained
from safetensors.torch import load_file, save_file
from server_loaders import LoaderError, peft_deltas_of

from tclora.adapters import SERVERS, base_shapes, read_adapter, serving_facts, serving_findings, verdict_of
from tclora.adapters.serving.peft_rules import FIRST_VERSION
from tclora.errors import AdapterError, ConfigError, UnknownNameError

Q0 = PREFIX + PATHS[0]
MLP = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]


def adapter(**config: object) -> Callable[[Path], Path]:
    return lambda folder: save_adapter(folder, **config)


def with_tensors(extra: dict[str, torch.Tensor], **config: object) -> Callable[[Path], Path]:
    return lambda folder: save_adapter(folder, {**tensors(), **extra}, **config)


def renamed(word: str) -> Callable[[Path], Path]:
    return lambda folder: save_adapter(
        folder, {name.replace(".weight", f".{word}.weight"): tensor for name, tensor in tensors().items()}
    )


def of_paths(paths: list[str], **config: object) -> Callable[[Path], Path]:
    return lambda folder: save_adapter(folder, tensors(paths=paths), **{"target_modules": leaves(paths), **config})


def mixed_ranks(**config: object) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        made = tensors(paths=[p for p in PATHS if "q_proj" in p], r=4) | tensors(paths=PATHS[1::2], r=2)
        return save_adapter(folder, made, **{"rank_pattern": {"q_proj": 4}, **config})

    return build


def leaves(paths: list[str]) -> list[str]:
    return sorted({path.split(".")[-1] for path in paths})


ADAPTERS: dict[str, Callable[[Path], Path]] = {
    "plain": adapter(),
    "rslora": adapter(use_rslora=True),
    "rslora of rank 1": lambda folder: save_adapter(folder, tensors(r=1), r=1, use_rslora=True),
    "rank pattern": mixed_ranks(),
    "alpha pattern": adapter(alpha_pattern={"q_proj": 32}),
    "both patterns": mixed_ranks(alpha_pattern={"q_proj": 32}),
    "both patterns, rslora": mixed_ranks(alpha_pattern={"q_proj": 32}, use_rslora=True),
    "patterns that give one scale": mixed_ranks(alpha_pattern={"q_proj": 8}),
    "patterns that repeat r and alpha": adapter(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 4}),
    "a pattern that matches nothing": adapter(alpha_pattern={"nowhere": 9}),
    "alpha 0": adapter(lora_alpha=0),
    "negative alpha": adapter(lora_alpha=-4),
    "expression": adapter(target_modules=r".*\.(q|v)_proj"),
    "all-linear": adapter(target_modules="all-linear"),
    "full paths": adapter(target_modules=PATHS),
    "no targets": adapter(target_modules=None),
    "targets missing": adapter(target_modules=...),
    "a target without tensors": adapter(target_modules=["q_proj", "v_proj", "router"]),
    "rank 32": lambda folder: save_adapter(folder, tensors(r=32), r=32),
    "r above the tensors'": adapter(rank_pattern={"q_proj": 2, "v_proj": 2}, r=64, lora_alpha=64),
    "adapter name in the tensors": renamed("sql"),
    "default in the tensors": renamed("default"),
    "dora": with_tensors({f"{Q0}.lora_magnitude_vector": torch.ones(5)}, use_dora=True),
    "lora bias": with_tensors({f"{Q0}.lora_B.bias": torch.ones(5)}, lora_bias=True),
    "bias": with_tensors({f"{Q0}.bias": torch.ones(5)}, bias="lora_only"),
    "modules to save": with_tensors({f"{PREFIX}lm_head.weight": torch.ones(7, 6)}, modules_to_save=["lm_head"]),
    "trained norm": with_tensors({f"{PREFIX}model.layers.0.input_layernorm.weight": torch.ones(6)}),
    "trained tokens": with_tensors(
        {f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(1, 6)},
        trainable_token_indices=[1],
    ),
    "copy of the base's embedding": with_tensors({f"{PREFIX}model.embed_tokens.base_layer.weight": torch.ones(9, 6)}),
    "copy of another base weight": with_tensors({f"{PREFIX}model.wte.base_layer.weight": torch.ones(9, 6)}),
    "pissa": adapter(init_lora_weights="pissa"),
    "q without v": of_paths(PATHS[::2]),
    "k and v without q": of_paths([p.replace("q_proj", "k_proj") for p in PATHS]),
    "no attention": of_paths(MLP),
    "a leaf of its own": of_paths([*PATHS, "model.layers.0.mlp.router"]),
    "lm_head": of_paths([*PATHS, "lm_head"]),
    "Conv1D": lambda folder: save_adapter(
        folder,
        tensors(paths=["transformer.h.0.attn.c_attn"], d_in=6, d_out=18),
        target_modules=["c_attn"],
        fan_in_fan_out=True,
    ),
    "Conv1D by its shape": lambda folder: save_adapter(
        folder, tensors(paths=["transformer.h.0.attn.c_attn"], d_in=6, d_out=18), target_modules=["c_attn"]
    ),
    "another family's c_attn": lambda folder: save_adapter(
        folder, tensors(paths=["transformer.h.0.attn.c_proj"], d_in=6, d_out=6), target_modules=["c_proj"]
    ),
}
LOADERS = {"vllm": server_loaders.vllm, "sglang": server_loaders.sglang, "llama.cpp": server_loaders.llama_cpp}
# Where the server is stricter or laxer than the loss of a delta: its own word, not the delta, is what is said.
EXCEPT = {
    # The base that would have to be changed is no part of the two files.
    ("sglang", "pissa"): "ignores",
    ("llama.cpp", "pissa"): "ignores",
}


def findings_of(folder: Path, server: str, **options: object):
    return serving_findings(serving_facts(folder), server, **options)


def expected_verdict(server: str, name: str, folder: Path) -> str:
    """From the server's own rule: it raises, or what it serves is, or is not, the delta that PEFT gives."""
    if (server, name) in EXCEPT:
        return EXCEPT[server, name]
    try:
        served = LOADERS[server](folder)
    except LoaderError:
        return "refuses"
    meant = peft_deltas_of(folder)
    same = served.keys() == meant.keys() and all(torch.allclose(served[p], meant[p], rtol=1e-9) for p in meant)
    return "loads" if same else "ignores"


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("server", LOADERS)
def test_the_verdict_is_that_of_the_servers_own_rule(server: str, name: str, tmp_path: Path):
    folder = ADAPTERS[name](tmp_path / "a")
    findings = findings_of(folder, server)
    assert verdict_of(findings) == expected_verdict(server, name, folder), findings


def test_the_loaders_of_this_test_can_refuse_and_can_serve_another_delta(tmp_path: Path):
    seen = {
        server: {
            expected_verdict(server, name, build(tmp_path / f"{server}-{name}")) for name, build in ADAPTERS.items()
        }
        for server in LOADERS
    }
    assert all(verdicts == {"loads", "refuses", "ignores"} for verdicts in seen.values()), seen


@pytest.mark.parametrize("max_rank", [8, 16, 32, 64])
@pytest.mark.parametrize("rank", [8, 9, 32, 33])
def test_a_rank_above_the_servers_limit_is_refused(rank: int, max_rank: int, tmp_path: Path):
    folder = save_adapter(tmp_path / "a", tensors(r=rank), r=rank)
    for server in ("vllm", "sglang"):
        try:
            LOADERS[server](folder, max_rank)
            expected = "loads"
        except LoaderError:
            expected = "refuses"
        assert verdict_of(findings_of(folder, server, max_rank=max_rank)) == expected


def test_the_flag_to_start_vllm_with_is_said(tmp_path: Path):
    (finding,) = findings_of(save_adapter(tmp_path / "a", tensors(r=33), r=33), "vllm")
    assert "--max-lora-rank 64" in finding.do
    assert (finding.severity, finding.found, finding.expected) == ("refuse", "rank 33", "at most 16, the default")


def test_a_rank_above_all_that_vllm_takes_is_not_sent_to_a_flag(tmp_path: Path):
    (finding,) = findings_of(save_adapter(tmp_path / "a", tensors(r=513), r=513), "vllm")
    assert "--max-rank 16" in finding.do and "start the server" not in finding.do


@pytest.mark.parametrize("max_rank", [2, 24, 513])
def test_a_limit_that_vllm_does_not_take_is_refused(max_rank: int, tmp_path: Path):
    with pytest.raises(ConfigError, match="1, 8, 16, 32, 64, 128, 256, 320, 512"):
        findings_of(save_adapter(tmp_path / "a"), "vllm", max_rank=max_rank)


def test_an_unknown_server_is_refused_with_a_suggestion(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="did you mean vllm"):
        findings_of(save_adapter(tmp_path / "a"), "vlm")


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_finding_states_its_facts(name: str, tmp_path: Path):
    folder = ADAPTERS[name](tmp_path / "a")
    for server in SERVERS:
        for finding in findings_of(folder, server):
            assert finding.target == server and finding.where == str(folder)
            assert all((finding.what, finding.found, finding.expected, finding.do))


def test_names_from_a_file_stay_readable(tmp_path: Path):
    long = {f"{PREFIX}{'x' * 400}.{i}.weight": torch.ones(1) for i in range(40)}
    for server in SERVERS:
        for finding in findings_of(with_tensors(long)(tmp_path / server), server):
            assert len(finding.found) < 1000


def test_a_folder_that_cannot_be_read_has_no_facts(tmp_path: Path):
    with pytest.raises(AdapterError, match="there is no such adapter"):
        serving_facts(tmp_path / "gone")


# The base, where it is known.


def a_base(folder: Path, model_type: str, names: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(("tied", "verdict"), [(True, "refuses"), (False, "loads")])
def test_llama_cpp_has_no_lm_head_where_it_is_tied(tied: bool, verdict: str, tmp_path: Path):
    names = {"model.embed_tokens.weight": (7, 6)} | ({} if tied else {"lm_head.weight": (7, 6)})
    base = base_shapes(a_base(tmp_path / "base", "llama", names))
    folder = ADAPTERS["lm_head"](tmp_path / "a")
    assert verdict_of(serving_findings(serving_facts(folder, base=base), "llama.cpp")) == verdict


@pytest.mark.parametrize(("model_type", "verdict"), [("gpt2", "refuses"), ("gpt_bigcode", "loads")])
def test_the_base_decides_what_c_proj_is(model_type: str, verdict: str, tmp_path: Path):
    base = base_shapes(a_base(tmp_path / "base", model_type, {"h.0.attn.c_proj.weight": (6, 6)}))
    folder = ADAPTERS["another family's c_attn"](tmp_path / "a")
    assert verdict_of(serving_findings(serving_facts(folder, base=base), "llama.cpp")) == verdict


# PEFT, really run.


CHANGES: dict[str, Callable] = {
    "as saved": lambda config, made: (config, made),
    "no target for v": lambda config, made: (config | {"target_modules": ["q_proj"]}, made),
    "a pattern without v": lambda config, made: (config | {"target_modules": r".*\.q_proj"}, made),
    "a pattern with v": lambda config, made: (config | {"target_modules": r".*\.[qv]_proj"}, made),
    "an adapter's name": lambda config, made: (config, named(made, "sql")),
    "the name default": lambda config, made: (config, named(made, "default")),
    "a target too many": lambda config, made: (config | {"target_modules": ["q_proj", "v_proj", "o_proj"]}, made),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES)
def test_peft_drops_what_the_findings_say_it_drops(change: str, tmp_path: Path):
    import peft

    folder = tmp_path / "a"
    trained(tiny_model("llama"), r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"]).save_pretrained(folder)
    config, made = CHANGES[change](
        json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")
    )
    save_adapter(folder, made, **config)
    loaded = peft_deltas(peft.PeftModel.from_pretrained(tiny_model("llama"), folder))
    meant = {path: factors.delta().float() for path, factors in read_adapter(folder).modules.items()}
    # PEFT multiplies in float32: r products of numbers of size 1 at 6e-8 each.
    kept = all(p in loaded and torch.allclose(loaded[p], meant[p], rtol=1e-5, atol=1e-5) for p in meant)
    assert verdict_of(findings_of(folder, "peft")) == ("loads" if kept else "ignores")


def named(made: dict[str, torch.Tensor], word: str) -> dict[str, torch.Tensor]:
    return {name.replace(".weight", f".{word}.weight"): tensor for name, tensor in made.items()}


def test_the_table_knows_every_field_of_the_peft_that_is_installed():
    import peft

    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= set(FIRST_VERSION)


@pytest.mark.filterwarnings("ignore")
def test_fields_that_older_versions_lack_are_listed_newest_first(tmp_path: Path):
    folder = save_adapter(tmp_path / "a", use_rslora=False, exclude_modules=None, use_bdlora=None, invented=[])
    (finding,) = findings_of(folder, "peft")
    assert finding.severity == "warn"
    assert finding.found == "invented (not in 0.21), use_bdlora (0.19), exclude_modules (0.14), use_rslora (0.8)"


def test_a_config_of_peft_0_6_has_no_newer_fields(tmp_path: Path):
    assert findings_of(save_adapter(tmp_path / "a"), "peft") == ()


# Sizes and scales at random: vLLM and llama.cpp serve the right delta exactly when nothing is said.


@settings(max_examples=25, deadline=None)
@given(
    r=st.integers(1, 9),
    alpha=st.sampled_from([-3, 0, 1, 2, 8, 2.5]),
    q_alpha=st.sampled_from([None, 1, 2, 8, 32]),
    q_rank=st.sampled_from([None, 1, 4]),
    rslora=st.booleans(),
)
def test_what_is_said_of_scales_is_what_is_served(r, alpha, q_alpha, q_rank, rslora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales") / "a"
    made = tensors(paths=PATHS[::2], r=q_rank or r) | tensors(paths=PATHS[1::2], r=r)
    patterns = {"rank_pattern": {"q_proj": q_rank} if q_rank else {}}
    patterns["alpha_pattern"] = {"q_proj": q_alpha} if q_alpha else {}
    save_adapter(folder, made, r=r, lora_alpha=alpha, use_rslora=rslora, **patterns)
    for server in LOADERS:
        assert verdict_of(findings_of(folder, server)) == expected_verdict(server, "random", folder)


def test_tensors_of_another_rank_than_the_config_states_are_refused_by_peft(tmp_path: Path):
    facts = serving_facts(save_adapter(tmp_path / "a", r=4))
    (finding,) = (found for found in serving_findings(facts, "peft") if found.severity == "refuse")
    assert "2 for 4" in str(finding.found)
    assert not finding.fixable


@pytest.mark.parametrize("damage", ["trailing", "empty"])
def test_a_file_that_no_loader_opens_has_no_facts(tmp_path: Path, damage: str):
    made = {Q0 + ".lora_A.weight": torch.ones(0, 6), Q0 + ".lora_B.weight": torch.ones(5, 0)}
    folder = save_adapter(tmp_path / "a", made if damage == "empty" else None)
    if damage == "trailing":
        with (folder / "adapter_model.safetensors").open("ab") as file:
            file.write(b"123456789")
    with pytest.raises(AdapterError):
        serving_facts(folder)
