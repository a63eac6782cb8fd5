"""`tclora merge`, `check` and `methods` as other tools call them: files, JSON, exit statuses, error text."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from merge_command import last_json, tclora
from stacks import dense, write_peft

from tclora.adapters import read_adapter

ENV = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}


def tclora_process(*words: object, hash_seed: str = "0") -> subprocess.CompletedProcess:
    """The command line as a process of its own."""
    command = [sys.executable, "-c", "from tclora.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENV | {"PYTHONHASHSEED": hash_seed}, timeout=120)


@pytest.fixture
def library(tmp_path) -> tuple[list[Path], list[dict]]:
    """Adapters that differ in everything they may differ in, and their deltas by an independent formula."""
    both = ("self_attn.q_proj", "mlp.up_proj")
    made = {
        "plain": {"r": 4, "lora_alpha": 16},
        "rslora": {"r": 8, "lora_alpha": 16, "use_rslora": True},
        "patterns": {"r": 4, "lora_alpha": 8, "ranks": {"q_proj": 2}, "alphas": {"q_proj": 32}},
        "one": {"r": 2, "lora_alpha": 1, "leaves": ("mlp.up_proj",), "target_modules": r".*\.mlp\.up_proj"},
        "half": {"r": 4, "lora_alpha": 4, "dtype": torch.bfloat16, "target_modules": "all-linear"},
    }
    folders, deltas = [], []
    for seed, (name, settings) in enumerate(made.items()):
        settings = {"leaves": both} | settings
        deltas.append(write_peft(tmp_path / name, settings.pop("r"), seed, **settings))
        folders.append(tmp_path / name)
    return folders, deltas


def test_mean_equals_the_float64_weighted_sum_in_every_module(library, tmp_path):
    folders, deltas = library
    weights = [0.5, 0.3, 0.2, -0.4, 1.0]
    out = tmp_path / "out"
    words = ",".join(map(str, weights))
    done = tclora("merge", *folders, "-o", out, "--method", "mean", "--weights", words, "--dtype", "fp32", "--json")
    assert done.returncode == 0, done.stderr
    wanted: dict[str, torch.Tensor] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        for name, matrix in delta.items():
            wanted[name] = wanted.get(name, 0) + weight * matrix
    found = dense(read_adapter(out))
    assert sorted(found) == sorted(wanted)
    for name in wanted:
        assert (found[name] - wanted[name]).norm() <= 1e-6 * wanted[name].norm(), name


def test_the_json_line_holds_the_contracts_keys(library, tmp_path):
    done = tclora("merge", *library[0], "-o", tmp_path / "out", "--cp-rank", 4, "--json")
    keys = {"method", "n_adapters", "n_modules", "out_rank", "relative_error", "wall_s", "peak_bytes", "out"}
    result = last_json(done)
    assert keys <= set(result)
    assert (result["method"], result["n_adapters"], result["n_modules"], result["out_rank"]) == ("tc_lora", 5, 4, 4)
    assert done.stdout.count("\n") == 1


def test_tc_lora_at_full_cp_rank_gives_the_mean(library, tmp_path):
    folders, deltas = library
    p = sum([4, 8, 4, 2, 4])
    done = tclora("merge", *folders, "-o", tmp_path / "out", "--cp-rank", p, "--dtype", "fp32")
    assert done.returncode == 0, done.stderr
    found = dense(read_adapter(tmp_path / "out"))
    for name in found:
        mean = sum(delta.get(name, torch.zeros(())) for delta in deltas) / 5
        assert (found[name] - mean).norm() <= 1e-5 * mean.norm(), name


def test_order_hash_seed_and_process_change_no_byte(library, tmp_path):
    folders, _ = library
    # This process, and one with another order and a hash seed that is not the one of this process.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = [
        tclora("merge", *folders, "-o", tmp_path / "x", "--cp-rank", 3),
        tclora_process("merge", *folders[::-1], "-o", tmp_path / "y", "--cp-rank", 3, hash_seed=seed),
    ]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert len({(tmp_path / name / file).read_bytes() for name in "xy"}) == 1


def test_one_adapter_comes_back_at_its_own_rank(library, tmp_path):
    folders, deltas = library
    done = tclora("merge", folders[1], "-o", tmp_path / "out", "--dtype", "fp32", "--json")
    assert last_json(done)["out_rank"] == 8
    found = dense(read_adapter(tmp_path / "out"))
    for name, delta in deltas[1].items():
        assert (found[name] - delta).norm() <= 1e-6 * delta.norm()


def test_the_card_tells_method_parameters_sources_and_command(library, tmp_path):
    import hashlib

    folders, _ = library
    tclora("merge", *folders, "-o", tmp_path / "out", "--cp-rank", 3)
    card = (tmp_path / "out" / "README.md").read_text()
    for folder in folders:
        assert hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest() in card
        assert str(folder) in card
    assert "cp_rank=3" in card
    assert "relative error" in card
    assert "merge" in card.split("## Command")[1]


def test_the_identity_figure_is_printed(library, tmp_path):
    done = tclora("merge", *library[0], "-o", tmp_path / "out", "--cp-rank", 3)
    figure = next(line for line in done.stdout.split("\n") if "identity check" in line)
    assert float(figure.split()[2]) <= 1e-6


def test_a_method_that_gives_no_adapter_back_says_what_was_checked(library, tmp_path):
    done = tclora("merge", *library[0], "-o", tmp_path / "out", "--method", "iso_c")
    assert "comes back through mean" in done.stdout
    assert "through mean" in (tmp_path / "out" / "README.md").read_text()


def test_dry_run_writes_nothing(library, tmp_path):
    done = tclora("merge", *library[0], "-o", tmp_path / "out", "--dry-run", "--json")
    assert done.returncode == 0
    assert {"shapes", "read_bytes", "expected_s"} <= set(last_json(done))
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused_and_overwrite_replaces_an_adapter(library, tmp_path):
    folders, _ = library
    assert tclora("merge", *folders, "-o", tmp_path / "out", "--method", "mean").returncode == 0
    again = tclora("merge", *folders, "-o", tmp_path / "out", "--method", "svd")
    assert again.returncode == 2
    assert "OutputExistsError" in again.stderr
    assert tclora("merge", *folders, "-o", tmp_path / "out", "--method", "svd", "--overwrite").returncode == 0
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["method"] == "svd"


def test_overwrite_never_replaces_what_is_no_adapter(library, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("years of work")
    done = tclora("merge", *library[0], "-o", precious, "--overwrite")
    assert done.returncode == 2
    assert (precious / "chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "tclora"], "did you mean tc_lora"),
        (["--weights", "1,2"], "2 weights for 5 adapters"),
        (["--weights", "1,2,3,4,nan"], "not a finite number"),
        (["--weights", "a,b"], "not numbers"),
        (["--cp-rank", "0"], "cp_rank"),
        (["--method", "svd", "--cp-rank", "3"], "no parameter 'cp_rank'"),
        (["--param", "n_start=1"], "did you mean 'n_starts'"),
        (["--dtype", "int8"], "bf16, fp16, fp32"),
        (["--device", "tpu"], "no such device"),
        (["--scale", "nan"], "scale"),
    ],
)
def test_a_wrong_request_ends_with_status_two_and_writes_nothing(library, tmp_path, words, said):
    done = tclora("merge", *library[0], "-o", tmp_path / "out", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_adapter_named_twice_is_refused(library, tmp_path):
    folders, _ = library
    done = tclora("merge", folders[0], folders[1], folders[0], "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "named twice" in done.stderr


def test_other_bases_are_warned_about_by_name(library, tmp_path):
    folders, _ = library
    path = folders[1] / "adapter_config.json"
    path.write_text(path.read_text().replace("org/base", "org/other"))
    done = tclora("merge", *folders, "-o", tmp_path / "out", "--method", "mean")
    assert done.returncode == 0
    assert "org/other" in done.stderr
    assert "rslora" in done.stderr


def set_config(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def spoil(folder: Path, kind: str) -> None:
    """Make one adapter unsupported or broken in one way."""
    from safetensors.torch import load_file, save_file

    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = next(iter(sorted(tensors)))
    if kind == "truncated":
        return weights.write_bytes(weights.read_bytes()[:-64]) and None
    if kind == "pickle":
        torch.save(tensors, folder / "adapter_model.bin")
        return weights.unlink()
    if kind == "dora":
        set_config(folder, use_dora=True)
        tensors["base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"] = torch.ones(40)
    if kind == "lora_bias":
        set_config(folder, lora_bias=True)
        tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.bias"] = torch.ones(40)
    if kind == "modules_to_save":
        set_config(folder, modules_to_save=["lm_head"])
        tensors["base_model.model.lm_head.weight"] = torch.ones(4, 16)
    if kind == "trainable_tokens":
        set_config(folder, trainable_token_indices=[1, 2])
        tensors["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"] = torch.ones(2, 16)
    if kind == "nan":
        tensors[key][0, 0] = float("nan")
    if kind == "shape":
        tensors[key] = torch.ones(3, 99)
    save_file(tensors, weights)
    return None


BROKEN = {
    "dora": "dora",
    "lora_bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "trainable_tokens": "trainable",
    "nan": "finite",
    "truncated": "adapter_model.safetensors",
    "shape": "lora_a",
    "pickle": "safetensors",
}


@pytest.mark.parametrize("command", ["merge", "check"])
@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_broken_adapter_gives_status_two_four_facts_and_no_output(library, tmp_path, kind, command):
    folders, _ = library
    shutil.copytree(folders[0], tmp_path / "bad")
    spoil(tmp_path / "bad", kind)
    words = ["-o", tmp_path / "out", "--method", "mean"] if command == "merge" else []
    done = tclora(command, folders[1], tmp_path / "bad", *words)
    said = done.stderr if command == "merge" else done.stdout
    assert done.returncode == 2
    assert BROKEN[kind] in said.lower()
    assert "bad" in said
    assert "Traceback" not in done.stderr
    assert all(f"\n  {fact}" in said for fact in ("where", "do")) or command == "check"
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_a_copy_under_another_name_is_pointed_out(library, tmp_path):
    folders, _ = library
    shutil.copytree(folders[0], tmp_path / "copy")
    done = tclora("merge", folders[0], tmp_path / "copy", "-o", tmp_path / "out", "--method", "mean", "--quiet")
    assert done.returncode == 0
    assert "hold the same weights" in done.stderr
    assert "hold the same weights" in (tmp_path / "out" / "README.md").read_text()


def test_errors_are_data_under_json(library, tmp_path):
    done = tclora("merge", *library[0], "-o", tmp_path / "out", "--method", "nope", "--json")
    assert last_json(done)["error"] == "UnknownNameError"


def test_check_accepts_sound_adapters(library):
    done = tclora("check", *library[0], "--json")
    assert done.returncode == 0
    assert last_json(done)["passed"] is True


def test_methods_lists_all(library):
    done = tclora("methods", "--json")
    assert {"mean", "svd", "tc_lora"} <= {method["name"] for method in last_json(done)["methods"]}
