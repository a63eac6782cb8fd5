"""lm-eval task files over local documents, and lm-eval's own answers to them."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
import yaml

from tclora.models import bundled_base_path

TASK_FILES = Path(__file__).resolve().parents[2] / "examples" / "lm_eval"

QUESTIONS = [
    {
        "id": str(i),
        "context": "",
        "question": f"{word} is what?",
        "choices": ["a colour", f"an animal of {i} legs", "a number", "a very long answer, longer than the others"][
            : 3 + i % 2
        ],
        "answer": i % 3,
    }
    for i, word in enumerate(["Red", "Dog", "Seven", "Blue", "Cat", "Nine", "Green", "Horse"])
]
TAKE_FIRST = {"function": "take_first"}
GENERATION = {
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [
        {
            "name": "first-word",
            "filter": [{"function": "regex", "regex_pattern": "(\\w+)"}, {"function": "take_first"}],
        },
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ],
}
CHOICE = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "doc_to_choice": "{{choices}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def shared_task_files(folder: Path, data: Path) -> Path:
    """The project's task files, with the folder of the data filled in; documents are cached beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (file for file in TASK_FILES.iterdir() if file.is_file()):
        text = file.read_text().replace("DATA", str(data))
        (folder / file.name).write_text(text.replace("  data_files:", f"  cache_dir: {folder}/cache\n  data_files:"))
    return folder


def first_rows(folder: Path, data: Path, name: str, n: int) -> Path:
    """A folder of data with the first rows of one task: both sides read and tokenize a task as a whole."""
    (folder / "eval").mkdir(parents=True)
    with gzip.open(data / "eval" / f"{name}.jsonl.gz", "rb") as whole:
        rows = b"".join(itertools.islice(whole, n))
    (folder / "eval" / f"{name}.jsonl.gz").write_bytes(gzip.compress(rows))
    return folder


def task_file(folder: Path, name: str, **fields) -> Path:
    """A task over the small questions above."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "questions.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    source = {"data_files": {"test": str(rows)}, "cache_dir": str(folder / "cache")}
    config = {"task": name, "dataset_path": "json", "dataset_kwargs": source} | fields
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def own_answers(
    folder: Path, names: list[str], *, peft: str | None = None, base: Path | None = None, **options
) -> dict:
    """What `lm_eval` gives with a base and a PEFT adapter that it loads itself, by task: its samples, in order."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(base or bundled_base_path()), peft=peft, device="cpu", dtype="float32", batch_size=4)
    seeds = {"random_seed": None, "numpy_random_seed": None, "torch_random_seed": None}
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **seeds,
        **options,
    )
    return {
        name: sorted(found["samples"][name], key=lambda sample: (sample["filter"], sample["doc_id"])) for name in names
    } | {"results": found["results"]}


def made_adapter(folder: Path) -> Path:
    """A PEFT adapter of the bundled base that changes its answers."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(6):
        for leaf, d_out in (("q_proj", 256), ("v_proj", 128)):
            path = f"base_model.model.model.layers.{layer}.self_attn.{leaf}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(4, 256, generator=generator) * 0.1
            tensors[f"{path}.lora_B.weight"] = torch.randn(d_out, 4, generator=generator) * 0.1
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
