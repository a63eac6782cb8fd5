"""The whole pipeline on what ships with tclora: the small base model and the instruction tasks of our own."""

from pathlib import Path

from tclora.artifacts import write_json
from tclora.config import RunConfig, validate
from tclora.data import write_examples
from tclora.data.quickstart import quickstart_examples

__all__ = ["quickstart_config"]

TASKS = {"n_train": 52, "n_dev": 10, "n_held_out": 10}


def quickstart_config(folder: Path, *, seed: int = 0) -> RunConfig:
    """Write the tasks below `folder` and return the settings of the run on them.

    The tasks depend on the seed only; files that are already right are written again with the same bytes.
    """
    tasks = folder / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    examples = quickstart_examples(seed=seed, **TASKS)
    parts = {"train": examples.train, "dev": examples.dev, "held_out": examples.held_out}
    for part, rows in parts.items():
        write_examples(tasks / f"{part}.jsonl", rows)
    write_json(tasks / "about.json", {"seed": seed, **TASKS})
    return validate(RunConfig, _settings(folder, tasks, seed), where="quickstart")


def _settings(folder: Path, tasks: Path, seed: int) -> dict[str, object]:
    return {
        "name": "quickstart",
        "output": str(folder),
        "seed": seed,
        "base": {"path": "bundled", "threads": 1, "max_length": 256},
        "data": {part: [str(tasks / f"{part}.jsonl")] for part in ("train", "dev", "held_out")},
        "encode": {"encoder": "tfidf", "dim": 64},
        "cluster": {"n_clusters": 8, "sample_fraction": 0.5},
        # Stronger than the paper's defaults: each adapter sees a few hundred short rows, not tens of thousands.
        "train": {
            "r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "target_modules": "all-linear",
            "lr": 4e-3,
            "batch_size": 8,
            "epochs": 2,
        },
        "merge": [
            {"method": "tc_lora", "params": {"cp_rank": 20}},
            {"method": "svd", "params": {"rank": 20}},
            {"method": "mean"},
        ],
        "evaluate": {"max_new_tokens": 24, "max_exact_match": 8},
    }
