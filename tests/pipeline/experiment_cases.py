"""A small experiment for tests: libraries of a few rows and two steps, on a tiny base."""

from pathlib import Path

import yaml
from small_base import small_base
from test_run import small_config

CONTESTANTS = {
    "base": {"kind": "base"},
    "routed": {"kind": "routed"},
    "best_single": {"kind": "best_single"},
    "multi_task": {"kind": "multi_task"},
    "mean": {},
    "svd": {"sweep": {"over": "rank", "values": [1, 4]}},
    "tsv cut": {"method": "tsv", "output_rank": 2},
    "tc_lora": {"params": {"cp_rank": 2, "max_iter": 40}},
    "random_factors": {"kind": "random_factors", "like": "mean"},
    "random clusters": {"method": "mean", "of": "random_clusters"},
    "random routed": {"kind": "routed", "of": "random_clusters"},
}


def experiment_file(folder: Path, **changes) -> Path:
    """The file of the small experiment, with some of its keys changed."""
    train = {"r": 2, "lr": 3e-3, "batch_size": 8, "epochs": 1, "max_steps": 2, "controls": ["random_clusters"]}
    # Short texts cost less; nothing here depends on what a row says.
    small_config(folder, train=train, base={"path": small_base(), "threads": 1, "max_length": 48})
    settings = {
        "name": "small",
        "title": "A small experiment",
        "question": "Which merge loses least?",
        "output": str(folder / "experiment"),
        "page": str(folder / "page"),
        "libraries": {"k2": {"run": "run.yaml", "output": str(folder / "libraries" / "{seed}"), "x": 2}},
        "seeds": [0, 1],
        "contestants": CONTESTANTS,
        "rows": {"choose": 5, "report": 10, "held_out": 4},
        "scales": {"grid": [0.5, 1, 2], "steps": 0},
        "about": ["tc_lora"],
        "rivals": ["mean", "svd rank=4"],
        "by": "family",
        "by_min_rows": 4,
        "spectra": True,
        "exact_match": {"rows": 2, "max_new_tokens": 2},
        "n_bootstrap": 200,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(settings | changes, sort_keys=False))
    return path
