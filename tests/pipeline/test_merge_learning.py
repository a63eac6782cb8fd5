"""Methods that learn, through the front door: what was learned is kept, verified, and merges again without the base."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tclora.config import load_merge_file, merge_file_of
from tclora.errors import ConfigError
from tclora.pipeline.merges.folders import MergeRequest, merge_folders

FILES = ("adapter_model.safetensors", "adapter_config.json")


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """Two small adapters of the bundled base, and four examples."""
    from tclora.models import bundled_base_path

    monkeypatch.chdir(tmp_path)
    d = json.loads((bundled_base_path() / "config.json").read_text())["hidden_size"]
    for seed, name in enumerate("AB"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(2):
            key = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            tensors[f"{key}.lora_A.weight"] = torch.randn(2, d, generator=generator)
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(d, 2, generator=generator)
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    rows = [{"instruction": f"say {word}", "output": word} for word in ("one", "two", "red", "blue")]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


LEARNERS = {
    "adamerging": {"steps": 2, "lr": 0.05},
    "distill": {"cp_rank": 2, "steps": 2, "max_new_tokens": 3},
    "learned_cat": {"steps": 2, "lr": 0.5},
    "lorahub": {"max_evaluations": 4},
    "regmean": {"max_tokens": 64},
}


def request(method: str, out: str, **keys) -> MergeRequest:
    keys = {"adapters": ["A", "B"], "merge_method": method, "parameters": LEARNERS[method], "dtype": "fp32", **keys}
    return MergeRequest(merge_file_of(keys, where="here"), out, verify=True)


@pytest.mark.parametrize("method", sorted(LEARNERS))
def test_what_was_learned_is_kept_and_merges_again_without_the_base(library, monkeypatch, method):
    examples = ["A=data.jsonl", "B=data.jsonl"] if method == "distill" else ["data.jsonl"]
    first = merge_folders(request(method, "out", base_model="bundled", examples=examples, seed=3))
    assert first.verified["file"]["relative_error"] < 1e-6
    assert Path("out/learned.json").exists()
    # Moved elsewhere, no data, and transformers gone: the output and the adapters are enough.
    shutil.move("out", "moved")
    stored = load_merge_file(Path("moved/merge.yaml"))
    assert (stored.learned, stored.examples) == ("moved/learned.json", ())
    monkeypatch.setitem(sys.modules, "transformers", None)
    merge_folders(MergeRequest(stored, "again"))
    assert all((Path("again") / name).read_bytes() == (Path("moved") / name).read_bytes() for name in FILES)


def test_weighted_sums_are_verified_against_the_sources_and_overrides_hold(library):
    keys = {"overrides": [{"modules": "layers.1", "weights": [0, 2]}], "base_model": "bundled"}
    record = merge_folders(request("adamerging", "out", examples=["data.jsonl"], **keys))
    assert record.verified["file"]["against"] == "the weighted sum of the source files"
    learned = json.loads(Path("out/learned.json").read_text())["weights"]
    assert all(0 < weight < 1 for weights in learned.values() for weight in weights)


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("adamerging", {}, r"(?s)learns from a base model and examples.*no --base and no --examples"),
        ("adamerging", {"base_model": "bundled"}, "no --examples"),
        ("distill", {"learned": "x", "weights": [1, 2]}, r"'distill' learns its weights"),
        ("lorahub", {"learned": "x", "weights": [1, 2]}, r"'lorahub' learns its weights"),
        ("learned_cat", {"learned": "x", "parameters": {"weight": 1}}, r"'learned_cat' learns its weights"),
    ],
)
def test_a_request_that_cannot_be_learned_is_refused_before_work(library, method, keys, said):
    with pytest.raises(ConfigError, match=said):
        merge_folders(request(method, "out", **keys))
    assert not Path("out").exists()


def test_examples_that_nobody_learns_from_are_refused(library):
    file = merge_file_of({"adapters": ["A", "B"], "merge_method": "mean", "examples": ["data.jsonl"]}, where="here")
    with pytest.raises(ConfigError, match="'mean' learns nothing from examples"):
        merge_folders(MergeRequest(file, "out"))
