"""`tclora check --target` and `--fix` as scripts call them: statuses, JSON, and copies that hold the same deltas."""

import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import server_loaders
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft_oracle import tiny_model, trained
from safetensors.torch import load_file, save_file
from server_loaders import LoaderError, files, peft_deltas_of

from tclora.cli.app import _status
from tclora.pipeline.checks.fix import chosen_rank

# What one rounding moves a number by, at most.
UNITS = {"bf16": 4e-3, "fp32": 6e-8}
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj")
SHAPES = {"q_proj": (24, 16), "k_proj": (8, 16), "v_proj": (8, 16), "up_proj": (40, 16)}


def run(*words: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tclora", *map(str, words)])
        try:
            status = _status([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
    return int(status or 0), out.getvalue(), err.getvalue()


def checked(*words: object) -> dict:
    """The JSON line of a check."""
    status, out, err = run("check", *words, "--json")
    assert status in (0, 1), err
    return json.loads(out.strip().split("\n")[-1])


def make(folder: Path, r: int = 4, *, ranks: dict[str, int] | None = None, layers: int = 2, **config: object) -> Path:
    """A PEFT folder with every kind of scale, written without the library."""
    generator = torch.Generator().manual_seed(3)
    ranks = ranks or {}
    tensors = {}
    for layer in range(layers):
        for module in ATTENTION:
            leaf = module.split(".")[-1]
            d_out, d_in = SHAPES[leaf]
            rank = ranks.get(leaf, r)
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": 2 * r,
        "bias": "none",
        "target_modules": sorted(SHAPES),
        "rank_pattern": ranks,
        "alpha_pattern": {},
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def rslora(tmp_path) -> Path:
    return make(tmp_path / "rs", 8, use_rslora=True, ranks={"q_proj": 3}, alpha_pattern={"v_proj": 5})


def spectral(delta: torch.Tensor, rank: int) -> tuple[torch.Tensor, float]:
    """The best approximation of one dense float64 matrix, and the share that it loses."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    return u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank], float(s[rank:].norm() / s.norm())


# Checking


def test_a_plain_adapter_is_taken_by_every_server(tmp_path):
    status, out, _ = run("check", make(tmp_path / "a"), "--target", "all")
    assert status == 0
    for server in ("peft", "vllm", "sglang", "llama.cpp"):
        assert f"  {server:<14} loads it\n" in out


def test_without_target_nothing_is_said_of_servers(rslora):
    status, out, _ = run("check", rslora)
    assert status == 0
    assert "vllm" not in out and out.endswith("  accepted\n")
    assert checked(rslora)["targets"] == []


def test_a_server_that_would_serve_another_delta_gives_status_one(rslora):
    status, out, _ = run("check", rslora, "--target", "llama.cpp")
    assert status == 1
    assert "  llama.cpp      loads it wrong\n" in out
    assert "ignore       every module is scaled by alpha / r" in out


def test_a_server_that_refuses_gives_status_one(tmp_path):
    status, out, _ = run("check", make(tmp_path / "a", 32), "--target", "vllm")
    assert status == 1
    assert "rank 32" in out and "at most 16, the default" in out and "--max-lora-rank 32" in out


def test_the_servers_own_limit_counts(tmp_path):
    assert run("check", make(tmp_path / "a", 32), "--target", "vllm", "--max-rank", 32)[0] == 0


def test_a_warning_alone_is_no_reason_to_fail(tmp_path):
    assert run("check", make(tmp_path / "a", use_bdlora=None), "--target", "peft")[0] == 0


def test_an_adapter_that_is_no_plain_lora_gives_status_two_and_still_a_verdict(tmp_path):
    folder = make(tmp_path / "a", use_dora=True)
    status, out, _ = run("check", folder, "--target", "vllm", "--target", "peft", "--json")
    assert status == 2
    reports = json.loads(out)["targets"]
    assert [(r["target"], r["verdict"]) for r in reports] == [("vllm", "refuses"), ("peft", "loads")]


def test_files_that_cannot_be_read_have_no_verdict(tmp_path):
    folder = make(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"no")
    status, out, _ = run("check", folder, "--target", "vllm", "--json")
    assert (status, json.loads(out)["targets"][0]["verdict"]) == (2, "unreadable")


def test_json_holds_every_finding_with_its_facts(rslora):
    result = checked(rslora, "--target", "sglang", "--target", "vllm")
    assert (result["passed"], result["served"], result["copies"]) == (True, False, [])
    assert [report["target"] for report in result["targets"]] == ["sglang", "vllm"]
    finding = result["targets"][0]["findings"][0]
    assert set(finding) >= {"severity", "what", "where", "found", "expected", "do", "fixable", "target"}
    assert finding["where"] == str(rslora)


def test_servers_are_named_once_and_all_means_all(tmp_path):
    reports = checked(make(tmp_path / "a"), "--target", "vllm", "--target", "all", "--target", "VLLM")["targets"]
    assert [report["target"] for report in reports] == ["vllm", "llama.cpp", "peft", "sglang"]


def test_adapters_that_do_not_belong_together_can_both_be_served(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    tensors = load_file(two / "adapter_model.safetensors")
    wide = {k: (torch.ones(4, 99) if "up_proj.lora_A" in k else v) for k, v in tensors.items()}
    save_file(wide, two / "adapter_model.safetensors")
    assert run("check", one, two)[0] == 2
    assert run("check", one, two, "--target", "vllm")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "vlm"], "did you mean vllm"),
        (["--target", "vllm", "--max-rank", "24"], "give 32"),
        (["--target", "sglang", "--max-rank", "0"], "1 or more"),
        (["--max-rank", "8"], "without --target"),
        (["--fix"], "add -o OUT"),
        (["-o", "x"], "-o needs --fix"),
        (["--rank", "4"], "--rank needs --fix"),
        (["--dtype", "fp32"], "--dtype needs --fix"),
        (["--overwrite"], "--overwrite needs --fix"),
        (["--fix", "-o", "x", "--dtype", "int8"], "bf16, fp16, fp32"),
        (["--fix", "-o", "x", "--rank", "0"], "1 or more"),
        (["--fix", "-o", "x", "--rank", "600"], "at most 512"),
        (["--fix", "-o", "x", "--rank", "32", "--max-rank", "16"], "at most 16"),
    ],
)
def test_a_wrong_request_gives_status_two_and_writes_nothing(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("check", make(tmp_path / "a"), *words)
    assert status == 2
    assert said in err and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_missing_last_layer_is_said(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "llama"}')
    names = [(n, m, SHAPES[m.split(".")[-1]]) for n in range(3) for m in ATTENTION]
    save_file({f"model.layers.{n}.{m}.weight": torch.zeros(s) for n, m, s in names}, base / "model.safetensors")
    status, out, _ = run("check", make(tmp_path / "a"), "--base", base)
    assert status == 0
    assert out.count("and the base also in layer 2") == len(ATTENTION)


# Fixing


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_copy_is_served_right_by_every_server(rslora, dtype, tmp_path):
    words = ["--target", "all", "--fix", "-o", tmp_path / "out", "--dtype", dtype]
    (copy,) = checked(rslora, *words)["copies"]
    meant = peft_deltas_of(rslora)
    for loader in (server_loaders.vllm, server_loaders.sglang, server_loaders.llama_cpp, peft_deltas_of):
        served = loader(tmp_path / "out")
        assert served.keys() == meant.keys()
        for path, delta in meant.items():
            # Each factor is rounded once; random factors of rank 8 do not cancel.
            assert (served[path] - delta).norm() <= 3 * UNITS[dtype] * delta.norm(), path
    assert copy["cut_error"] == 0 and 0 < copy["distance"] <= 3 * UNITS[dtype]


def test_the_source_of_that_copy_is_served_wrong_or_not_at_all(rslora):
    meant = peft_deltas_of(rslora)
    for loader in (server_loaders.vllm, server_loaders.llama_cpp):
        assert any(not torch.allclose(delta, meant[path]) for path, delta in loader(rslora).items())
    with pytest.raises(LoaderError):
        server_loaders.sglang(rslora)


def test_the_copy_has_no_findings_left(rslora, tmp_path):
    before = checked(rslora, "--fix", "-o", tmp_path / "out")
    assert any(report["findings"] for report in before["targets"])
    after = checked(tmp_path / "out", "--target", "all")
    assert all(report["findings"] == [] for report in after["targets"])
    assert before["copies"][0]["findings"] == []


def test_the_copys_config_is_plain(rslora, tmp_path):
    run("check", rslora, "--fix", "-o", tmp_path / "out")
    config, tensors = files(tmp_path / "out")
    assert config["target_modules"] == sorted(SHAPES)
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (8, 8, {}, {})
    assert "use_rslora" not in config
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_gives_the_same_logits_from_the_copy(family, tmp_path):
    import peft

    pattern = {"rank_pattern": {"layers.0.*": 3, "h.0.*": 3}, "alpha_pattern": {"up_proj": 9, "c_fc": 9}}
    wrapped = trained(tiny_model(family), r=5, lora_alpha=6, target_modules="all-linear", use_rslora=True, **pattern)
    wrapped.save_pretrained(tmp_path / "a")
    tokens = torch.arange(12).reshape(1, -1)
    words = ["--target", "peft", "--target", "vllm", "--fix", "-o", tmp_path / "out", "--dtype", "fp32"]
    status, _, err = run("check", tmp_path / "a", *words)
    assert status == 0, err
    with torch.no_grad():
        expected = wrapped(tokens).logits
        found = peft.PeftModel.from_pretrained(wrapped.unload(), tmp_path / "out").eval()(tokens).logits
    # Updates far larger than the weights saturate attention, which raises float32's rounding: 1e-6 to 2e-5 over 25
    # random models. A wrong scale in one module moves the logits by tenths.
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_a_limit_cuts_and_states_what_is_lost(tmp_path):
    folder = make(tmp_path / "a", 12, use_rslora=True, ranks={"k_proj": 5})
    words = ["--target", "vllm", "--max-rank", 8, "--fix", "-o", tmp_path / "out", "--dtype", "fp32"]
    (copy,) = checked(folder, *words)["copies"]
    served, worst = server_loaders.vllm(tmp_path / "out", 8), 0.0
    for path, delta in peft_deltas_of(folder).items():
        best, lost = spectral(delta, 8)
        worst = max(worst, lost)
        # The truncation is exact to float64; what is stored is rounded to float32.
        assert (served[path] - best).norm() <= 1e-6 * delta.norm(), path
    assert copy["rank"] == 8 and copy["n_cut"] == 6
    # The scale is folded in float32 on reading, which moves a share of 0.2 in its eighth digit.
    assert copy["cut_error"] == pytest.approx(worst, rel=1e-6)
    assert copy["distance"] == pytest.approx(worst, rel=1e-6)
    assert spectral(peft_deltas_of(folder)[copy["cut_module"]], 8)[1] == worst


def test_what_is_lost_is_told_to_people_and_stands_in_the_card(tmp_path):
    folder = make(tmp_path / "a", 12)
    words = ["--target", "vllm", "--rank", 8, "--fix", "-o", tmp_path / "out"]
    _, out, _ = run("check", folder, *words)
    assert "  cut            8 modules, at worst 0." in out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "modules were cut; the largest relative error is 0." in card and "| copy of |" in card


def test_nothing_is_cut_unless_asked_for(tmp_path):
    folder = make(tmp_path / "a", 33)
    result = checked(folder, "--target", "vllm", "--fix", "-o", tmp_path / "out")
    (copy,) = result["copies"]
    assert result["served"] is False
    assert (copy["rank"], copy["n_cut"], copy["flags"]) == (64, 0, ["vllm: --max-lora-rank 64"])
    assert run("check", tmp_path / "out", "--target", "vllm", "--max-rank", 64)[0] == 0


def test_a_rank_that_no_flag_takes_is_cut_to_the_largest_one(tmp_path):
    folder = make(tmp_path / "a", 520)
    (copy,) = checked(folder, "--target", "vllm", "--fix", "-o", tmp_path / "out", "--dtype", "fp32")["copies"]
    assert (copy["rank"], copy["n_cut"]) == (512, 8)
    # Matrices of 8 to 40 rows have no more rank than that, so nothing but float64's rounding is lost.
    assert copy["cut_error"] < 1e-12 and copy["distance"] < 1e-6


def test_an_adapter_of_zeros_loses_nothing(tmp_path):
    folder = make(tmp_path / "a", 12)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v * 0 if "lora_B" in k else v for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    (copy,) = checked(folder, "--target", "vllm", "--rank", 4, "--fix", "-o", tmp_path / "out")["copies"]
    assert (copy["cut_error"], copy["distance"]) == (0.0, 0.0)


def test_several_adapters_go_below_the_output(rslora, tmp_path):
    plain = make(tmp_path / "plain")
    copies = checked(plain, rslora, "--fix", "-o", tmp_path / "out")["copies"]
    assert [copy["out"] for copy in copies] == [str(tmp_path / "out" / name) for name in ("plain", "rs")]
    assert run("check", *(copy["out"] for copy in copies), "--target", "all")[0] == 0


def test_two_adapters_of_one_name_are_refused(tmp_path):
    one, two = make(tmp_path / "x" / "a"), make(tmp_path / "y" / "a")
    status, _, err = run("check", one, two, "--fix", "-o", tmp_path / "out")
    assert status == 2 and "two adapters have one name" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias cannot be represented"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_what_a_copy_cannot_put_right_is_refused_with_its_reason(config, said, rslora, tmp_path):
    status, _, err = run("check", rslora, make(tmp_path / "bad", **config), "--fix", "-o", tmp_path / "out")
    assert status == 2 and said in err
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_keeps_the_others_from_being_written(rslora, tmp_path):
    bad = make(tmp_path / "bad")
    tensors = load_file(bad / "adapter_model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, bad / "adapter_model.safetensors")
    status, _, err = run("check", rslora, bad, "--target", "vllm", "--fix", "-o", tmp_path / "out")
    assert status == 2 and "values that are not finite" in err
    assert not (tmp_path / "out").exists()


def test_a_finding_that_a_copy_keeps_is_refused_and_names_the_server(tmp_path):
    folder = make(tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if "v_proj" not in k}, folder / "adapter_model.safetensors")
    status, _, err = run("check", folder, "--fix", "-o", tmp_path / "out")
    assert status == 2
    assert "sglang: q_proj, k_proj and v_proj are stacked" in err and "--target" in err
    assert run("check", folder, "--target", "vllm", "--fix", "-o", tmp_path / "out")[0] == 0


def test_an_existing_output_stays_unless_overwrite_is_given(rslora, tmp_path):
    words = ["check", rslora, "--fix", "-o", tmp_path / "out"]
    assert run(*words)[0] == 0
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    status, _, err = run(*words, "--dtype", "fp32")
    assert status == 2 and "OutputExistsError" in err
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before
    assert run(*words, "--dtype", "fp32", "--overwrite")[0] == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() != before


def test_a_source_is_never_the_output(rslora):
    before = (rslora / "adapter_model.safetensors").read_bytes()
    status, _, err = run("check", rslora, "--fix", "-o", rslora, "--overwrite")
    assert status == 2 and "the output is one of the adapters" in err
    assert (rslora / "adapter_model.safetensors").read_bytes() == before


def test_a_value_that_the_dtype_cannot_hold_leaves_nothing_behind(tmp_path):
    folder = make(tmp_path / "a")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor * 1e6 for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    status, _, err = run("check", folder, "--fix", "-o", tmp_path / "out", "--dtype", "fp16")
    assert status == 2 and "overflows torch.float16" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_equal_requests_write_equal_bytes(rslora, tmp_path):
    shutil.copytree(rslora, tmp_path / "elsewhere" / "rs")
    for out, source in (("x", rslora), ("y", rslora), ("z", tmp_path / "elsewhere" / "rs")):
        run("check", source, "--fix", "-o", tmp_path / out, "--target", "vllm", "--rank", 2)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert len({(tmp_path / out / file).read_bytes() for out in "xyz"}) == 1


@settings(max_examples=60, deadline=None)
@given(
    largest=st.integers(1, 700),
    servers=st.sets(st.sampled_from(["vllm", "sglang", "peft", "llama.cpp"]), min_size=1),
    max_rank=st.sampled_from([None, 1, 8, 16, 64, 512]),
    rank=st.one_of(st.none(), st.integers(1, 600)),
)
def test_the_rank_is_the_one_asked_for_or_the_smallest_that_cuts_least(largest, servers, max_rank, rank):
    chosen = chosen_rank(largest, sorted(servers), rank=rank, max_rank=max_rank)
    top = max_rank if max_rank is not None else 512 if "vllm" in servers else largest
    if rank is not None:
        assert chosen == rank
    elif "vllm" in servers:
        allowed = (1, 8, 16, 32, 64, 128, 256, 320, 512)
        assert chosen == min(value for value in allowed if value >= min(largest, top))
    else:
        assert chosen == min(largest, top)
