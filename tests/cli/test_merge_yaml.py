"""`tclora merge CONFIG.yaml` and the flags are one thing: same bytes, flags win, and what is stored merges again."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from merge_command import last_json, tclora, weights_of
from safetensors.torch import load_file, save_file
from stacks import dense, write_peft

from tclora.adapters import read_adapter

BOTH = ("self_attn.q_proj", "mlp.up_proj")


@pytest.fixture
def library(tmp_path, monkeypatch) -> list[dict]:
    """Three adapters A, B and C in the working directory, and their dense deltas."""
    monkeypatch.chdir(tmp_path)
    made = {"A": 4, "B": 2, "C": 3}.items()
    return [write_peft(tmp_path / name, r, seed, leaves=BOTH) for seed, (name, r) in enumerate(made)]


def write(text: str, name: str = "merge.yaml") -> str:
    Path(name).write_text(text)
    return name


def merged(*words: object):
    done = tclora("merge", *words)
    assert done.returncode == 0, done.stderr
    return done


SAME = [
    ("merge_method: mean\nadapters: [A, B, C]", ["--method", "mean"]),
    (
        "merge_method: mean\nmodels: [A, B, C]\nweights: [0.5, 0.3, 0.2]\nparameters: {lambda: 2}\ndtype: float32",
        ["--method", "mean", "--weights", "0.5,0.3,0.2", "--scale", 2, "--dtype", "fp32"],
    ),
    (
        "merge_method: mean\nmodels:\n- {model: A, parameters: {weight: 0.5}}\n- {model: B, parameters: {weight: 1}}\n"
        "- {model: C, parameters: {weight: 2}}\noverrides: [{modules: q_proj, weights: [0, 0, 1]}]",
        ["--method", "mean", "--weights", "0.5,1,2", "--weights-for", "q_proj=0,0,1"],
    ),
    (
        "merge_method: svd\nadapters: [A, B, C]\nparameters: {rank: 3}\n"
        "overrides: [{modules: layers.1, parameters: {rank: 2}}, {modules: 're:.*0.*', parameters: {scale: 0.5}}]",
        ["--method", "svd", "--rank", 3, "--param-for", "layers.1:rank=2", "--param-for", "re:.*0.*:scale=0.5"],
    ),
    (
        "merge_method: tc_lora\nadapters: [A, B, C]\nparameters: {cp_rank: 3, n_starts: 1, rule: sum}\nseed: 7",
        ["--cp-rank", 3, "--param", "n_starts=1", "--rule", "sum", "--seed", 7],
    ),
    (
        "merge_method: ties\nadapters:\n- {adapter: A, parameters: {density: 0.2}}\n"
        "- {adapter: B, parameters: {density: 0.5}}\n- {adapter: C, parameters: {density: 0.9}}",
        ["--method", "ties", "--density", "0.2,0.5,0.9"],
    ),
]


@pytest.mark.parametrize(("text", "flags"), SAME, ids=[text.split("\n")[0] for text, _ in SAME])
def test_a_file_and_its_flags_give_the_same_bytes_and_so_does_what_is_stored(library, text, flags):
    merged(write(text), "-o", "by_file")
    merged("A", "B", "C", "-o", "by_flags", *flags)
    merged("by_flags/merge.yaml", "-o", "again")
    assert weights_of(Path("by_file")) == weights_of(Path("by_flags")) == weights_of(Path("again"))
    assert Path("again/merge.yaml").read_text() == Path("by_flags/merge.yaml").read_text()


def test_what_is_stored_states_every_default_and_digest(library):
    import hashlib

    merged("A", "B", "-o", "out", "--method", "svd", "--rank", 2)
    stored = yaml.safe_load(Path("out/merge.yaml").read_text())
    assert stored["merge_method"] == "svd"
    assert stored["parameters"] == {"scale": 1.0, "rank": 2}
    assert stored["weights"] == [0.5, 0.5]
    assert stored["dtype"] == "bf16"
    digests = {
        key: hashlib.sha256(Path("A", name).read_bytes()).hexdigest()
        for key, name in (("sha256", "adapter_model.safetensors"), ("config_sha256", "adapter_config.json"))
    }
    assert stored["adapters"][0] == {"adapter": "A", **digests}


def test_an_adapter_whose_scale_was_changed_since_is_refused(library):
    merged("A", "B", "-o", "out", "--method", "mean")
    config = Path("A/adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 80}))
    result = tclora("merge", "out/merge.yaml", "-o", "again")
    assert result.returncode == 2
    assert "config_sha256" in result.stderr
    assert not Path("again").exists()


def test_equal_weights_with_another_scale_give_the_same_bytes_in_any_order(library):
    for place, alpha in (("x", 8), ("y", 80)):
        shutil.copytree("A", f"{place}/ad")
        config = Path(place, "ad", "adapter_config.json")
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": alpha}))
    one = merged("x/ad", "y/ad", "-o", "1", "--method", "mean")
    other = merged("y/ad", "x/ad", "-o", "2", "--method", "mean")
    assert weights_of(Path("1")) == weights_of(Path("2"))
    assert "same weights" not in one.stderr + other.stderr


@pytest.mark.parametrize("value", ["auto", "auto:energy=0.9", "auto:budget=2"])
def test_a_rank_of_each_module_by_pattern(library, value):
    merged("A", "B", "-o", "out", "--param-for", f"q_proj:cp_rank={value}")
    assert yaml.safe_load(Path("out/merge.yaml").read_text())["overrides"][0]["parameters"] == {"cp_rank": value}


def test_the_seed_of_a_flag_wins_over_the_file_and_two_are_refused(library):
    text = write("merge_method: dare\nadapters: [A, B]\nseed: 7")
    merged(text, "-o", "three", "--param", "seed=3")
    merged("A", "B", "-o", "same", "--method", "dare", "--seed", 3)
    assert weights_of(Path("three")) == weights_of(Path("same"))
    for words in (["--seed", 7, "--param", "seed=3"], ["--set", "parameters.seed=3"]):
        done = tclora("merge", text, "-o", "two", *words)
        assert (done.returncode, "the seed is given twice" in done.stderr) == (2, True)


def test_what_mergekit_calls_t_is_explained(library):
    done = tclora("merge", write("merge_method: slerp\nadapters: [A, B]\nparameters: {t: 0.5}"), "-o", "out")
    assert done.returncode == 2
    assert "1 - t and t" in done.stderr


def test_an_update_that_rounding_destroys_is_said_and_one_that_it_keeps_is_not(library):
    nearly = {name: tensor * 1.001 for name, tensor in load_file("A/adapter_model.safetensors").items()}
    shutil.copytree("A", "near")
    save_file(nearly, "near/adapter_model.safetensors")
    coarse = merged("A", "near", "-o", "1", "--method", "task_arithmetic", "--weights", "1,-1")
    assert "rounding to bf16 changed 4 of 4 updates by more than 5%" in coarse.stderr
    assert "rounding to bf16" in Path("1/README.md").read_text()
    for words in (["--weights", "1,1"], ["--weights", "1,-1", "--dtype", "fp32"]):
        fine = merged("A", "near", "-o", "2", "--method", "task_arithmetic", *words, "--overwrite")
        assert "rounding" not in fine.stderr


@pytest.mark.parametrize("how", ["replaced", "written to"])
def test_weights_that_change_during_the_merge_are_refused(library, monkeypatch, how):
    from tclora.pipeline.merges import folders as door

    merge = door.merge_adapters
    file = Path("A/adapter_model.safetensors")

    def meanwhile(*args, **about):
        if how == "replaced":
            shutil.copy("B/adapter_model.safetensors", "new")
            Path("new").rename(file)
        else:
            file.write_bytes(file.read_bytes())
        return merge(*args, **about)

    monkeypatch.setattr(door, "merge_adapters", meanwhile)
    done = tclora("merge", "A", "B", "-o", "out", "--method", "mean")
    assert "was changed while it was in use" in done.stderr
    assert done.returncode == 2
    assert not Path("out").exists()


def test_an_output_inside_an_adapter_is_refused(library):
    done = tclora("merge", "A", "B", "-o", "A/out")
    assert (done.returncode, "inside it" in done.stderr) == (2, True)


def test_what_appears_in_the_output_meanwhile_is_spared(library, monkeypatch):
    from tclora.pipeline.merges import folders as door

    merged("A", "B", "-o", "out", "--method", "mean")
    merge = door.merge_adapters

    def meanwhile(*args, **about):
        Path("out/checkpoint-9").mkdir(exist_ok=True)
        return merge(*args, **about)

    monkeypatch.setattr(door, "merge_adapters", meanwhile)
    done = tclora("merge", "A", "C", "-o", "out", "--method", "mean", "--overwrite")
    assert done.returncode == 2
    assert Path("out/checkpoint-9").is_dir()


def test_flags_win_over_the_file(library):
    text = (
        "merge_method: tc_lora\nparameters: {cp_rank: 9, weight: 3, scale: 5}\nseed: 1\ndtype: fp16\nmodels:\n"
        "- {model: A, parameters: {weight: 1}}\n- {model: B, parameters: {weight: 2}}\n"
    )
    flags = [
        "--method",
        "svd",
        "--set",
        "parameters.cp_rank=1",
        "--weights",
        "0.25,0.75",
        "--scale",
        1,
        "--dtype",
        "fp32",
    ]
    done = tclora("merge", write(text), "-o", "out", *flags)
    assert done.returncode == 2
    assert "no parameter 'cp_rank'" in done.stderr
    merged(
        write(text.replace("cp_rank: 9, ", "")),
        "-o",
        "out",
        *(flag for flag in flags if "cp_rank" not in str(flag) and flag != "--set"),
    )
    merged("A", "B", "-o", "plain", "--method", "svd", "--weights", "0.25,0.75", "--dtype", "fp32")
    assert weights_of(Path("out")) == weights_of(Path("plain"))


def test_set_reaches_into_the_file(library):
    name = write("merge_method: mean\nadapters: [A, B]\nweights: [1, 1]")
    merged(name, "-o", "out", "--set", "weights.0=0", "--set", "dtype=fp32")
    found = dense(read_adapter("out"))
    assert all((found[path] - delta).norm() <= 1e-6 * delta.norm() for path, delta in library[1].items())


def test_gradients_and_filters_reach_the_modules(library):
    text = """
merge_method: mean
dtype: float32
models:
  - {model: A, parameters: {weight: [{filter: self_attn, value: [0, 1]}, {value: 0.5}]}}
  - {model: B, parameters: {weight: 0.25}}
"""
    merged(write(text), "-o", "out")
    found = dense(read_adapter("out"))
    weights = {"layers.0.self_attn": 0.0, "layers.1.self_attn": 1.0, "mlp": 0.5}
    for path, delta in found.items():
        (weight,) = (value for part, value in weights.items() if part in path)
        wanted = weight * library[0][path] + 0.25 * library[1][path]
        # The factors are stored in float32.
        assert (delta - wanted).norm() <= 1e-6 * wanted.norm(), path


def test_an_adapter_with_other_weights_than_the_file_names_is_refused(library, tmp_path):
    merged("A", "B", "-o", "out", "--method", "mean")
    (tmp_path / "A" / "adapter_model.safetensors").write_bytes(
        (tmp_path / "C" / "adapter_model.safetensors").read_bytes()
    )
    config = json.loads((tmp_path / "C" / "adapter_config.json").read_text())
    (tmp_path / "A" / "adapter_config.json").write_text(json.dumps(config))
    done = tclora("merge", "out/merge.yaml", "-o", "again")
    assert done.returncode == 2
    assert "does not hold the weights that the file names" in done.stderr
    assert not Path("again").exists()


def test_verify_prints_a_table_and_stores_it(library):
    done = merged("A", "B", "C", "-o", "out", "--method", "mean", "--verify")
    assert "Verified" in done.stdout
    assert "A alone at weight 1" in done.stdout
    assert "file against the weighted sum of the source files" in done.stdout
    assert "## Verified" in Path("out/README.md").read_text()
    found = last_json(merged("A", "B", "-o", "out2", "--verify", "--json"))
    assert found["verified"]["file"]["n_modules"] == 4


def test_a_base_known_by_name_only_is_compared_by_name(library):
    merged("A", "B", "-o", "out", "--method", "mean", "--base", "org/base", "--quiet")
    done = merged(write("merge_method: mean\nadapters: [A, B]\nbase_model: org/other"), "-o", "out2", "--quiet")
    assert "A names the base org/base, not org/other" in done.stderr


def test_dry_run_reads_a_file_and_writes_nothing(library):
    done = merged(write("merge_method: svd\nadapters: [A, B]"), "-o", "out", "--dry-run", "--json")
    assert last_json(done)["method"] == "svd"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["merge.yaml"], "no output is named"),
        (["merge.yaml", "A", "-o", "out"], "beside other things"),
        (["missing.yaml", "-o", "out"], "no such config file"),
        (["neither.yaml", "-o", "out"], "neither a merge nor a run"),
        (["A", "B", "-o", "out", "--set", "a=1"], "--set changes a file"),
        (["merge.yaml", "-o", "out", "--weights-for", "q_proj"], "not PATTERN=numbers"),
        (["merge.yaml", "-o", "out", "--weights-for", "q_prj=1,2"], "'q_prj' matches no module"),
        (["merge.yaml", "-o", "out", "--weights-for", "q_proj=1"], "1 weights for 2 adapters"),
        (["merge.yaml", "-o", "out", "--param-for", "q_proj:rank"], "not PATTERN:name=value"),
        (["merge.yaml", "-o", "out", "--param-for", "q_proj:rnk=2"], "no parameter 'rnk'"),
        (["merge.yaml", "-o", "out", "--param", "scale=big"], "not a number"),
        (["merge.yaml", "-o", "A"], "exists"),
        (["A", "B", "-o", "out", "--method", "linear"], "`mean` here, with `normalize: true`"),
        (["run.yaml", "-o", "out", "--method", "mean"], "--method, --out"),
        (["run.yaml", "--verify"], "--verify"),
        (["run.yaml", "--weights", "1,2"], "--weights"),
        (["run.yaml", "--cp-rank", "3"], "--cp-rank"),
    ],
)
def test_a_wrong_request_is_refused_with_status_two(library, words, said):
    write("merge_method: svd\nadapters: [A, B]")
    write("seed: 3", "neither.yaml")
    write("output: x\nbase: {path: bundled}\ndata: {train: [a.jsonl]}", "run.yaml")
    done = tclora("merge", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("out").exists()


def test_a_runs_file_still_means_its_merge_stage(library, monkeypatch):
    import tclora.cli.run as run

    seen = {}
    monkeypatch.setattr(
        run, "run_until", lambda config, stage, words, **rest: seen.update(rest, of=(config, stage, words))
    )
    write("output: x\nbase: {path: bundled}\ndata: {train: [a.jsonl]}", "run.yaml")
    merged("run.yaml", "--set", "train.epochs=1", "--seed", 3, "--dry-run")
    assert seen["of"] == ("run.yaml", "merge", ["train.epochs=1"])
    assert (seen["seed"], seen["dry_run"]) == (3, True)
