"""A trained run that costs seconds, and the files of a small library."""

from pathlib import Path

import yaml
from test_run import small_config

from tclora.config import load_config
from tclora.data import Example
from tclora.pipeline.progress import Silent
from tclora.pipeline.run import run_pipeline

CHEAP = {
    "train": {"r": 2, "lr": 1e-3, "batch_size": 8, "epochs": 1, "max_steps": 1, "multi_task": False},
    "merge": [{"method": "svd", "params": {"rank": 2}}, {"method": "mean", "weights": "size"}],
    "evaluate": {},
}
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Heard(Silent):
    """Keeps the notes."""

    def __init__(self):
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def cheap_config(folder: Path, **changes) -> Path:
    return small_config(folder, **CHEAP | changes)


def trained_run(folder: Path, **changes) -> Path:
    """The run folder of a library of two adapters, of one step each, and its merges."""
    path = cheap_config(folder, **changes)
    run_pipeline(load_config(path), until="merge")
    return Path(yaml.safe_load(path.read_text())["output"])


def recipes(n: int = 48) -> list[Example]:
    """A family that shares hardly a word with the tasks of the run."""
    names = ["tomatoes", "onions", "garlic", "basil", "carrots", "lentils"]
    names += ["mushrooms", "spinach", "potatoes", "beans", "leeks", "peppers"]
    verbs = ["roast", "simmer", "braise", "grill", "saute", "steam"]
    made = []
    for i in range(n):
        verb, one, other = verbs[i % 6], names[(i // 2) % 12], names[(i * 5 + 1) % 12]
        text = f"Recipe {i}: {verb} {one} with {other} in olive oil for the oven dinner."
        made.append(Example(text, "", f"Chop {one}, {verb} with {other}, serve hot.", "cooking"))
    return made


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
