"""Official benchmark sets of the Hugging Face Hub, written out once in the shared schema.

In: the name of a benchmark's file and a folder. Out: `<name>.jsonl` in it, written whole or not at all, so a second
run needs neither network nor the datasets package. Rows become what `data/README` of the shared schema states;
`hub_rows.py` says how. Only data is read: no code of a repository is run. Refused: a set that cannot be had, or whose
rows lack the columns it had when this was written.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tclora.artifacts import write_bytes
from tclora.errors import DataError, MissingExtraError
from tclora.evaluation.tasks import hub_rows

__all__ = ["HUB_SETS", "HubSet", "fetch"]


@dataclass(frozen=True)
class HubSet:
    """One official set: its id, its configurations (None: the only one), its splits, and what a row becomes."""

    id: str
    convert: Callable[[Mapping[str, Any], str], dict[str, Any]]
    """Takes a row and `<configuration>/<index>`; gives a row of the shared schema."""
    splits: tuple[str, ...]
    configs: tuple[str | None, ...] = (None,)
    keep: Callable[[dict[str, Any]], bool] = lambda row: True

    @property
    def address(self) -> str:
        """How the set is called in tables and errors."""
        config = f" ({self.configs[0]})" if len(self.configs) == 1 and self.configs[0] else ""
        return self.id + config


HUB_SETS: Mapping[str, HubSet] = {
    "eval/boolq": HubSet("aps/super_glue", hub_rows.boolq, ("validation",), ("boolq",)),
    "eval/piqa": HubSet("baber/piqa", hub_rows.piqa, ("validation",)),
    "eval/hellaswag": HubSet("Rowan/hellaswag", hub_rows.hellaswag, ("validation",)),
    "eval/winogrande": HubSet("allenai/winogrande", hub_rows.winogrande, ("validation",), ("winogrande_xl",)),
    "eval/arc_easy": HubSet("allenai/ai2_arc", hub_rows.arc, ("test",), ("ARC-Easy",)),
    "eval/arc_challenge": HubSet("allenai/ai2_arc", hub_rows.arc, ("test",), ("ARC-Challenge",)),
    "eval/openbookqa": HubSet("allenai/openbookqa", hub_rows.openbookqa, ("test",), ("main",)),
    "eval/bbh_choice": HubSet(
        "SaylorTwift/bbh", hub_rows.bbh_choice, ("test",), hub_rows.BBH_CHOICE, keep=lambda row: row["answer"] >= 0
    ),
    "eval/bbh_freeform": HubSet("SaylorTwift/bbh", hub_rows.bbh_freeform, ("test",), hub_rows.BBH_FREEFORM),
    "eval/gsm8k": HubSet("openai/gsm8k", hub_rows.gsm8k, ("test",), ("main",)),
    "train/math_gsm8k": HubSet("openai/gsm8k", hub_rows.gsm8k_solved, ("train",), ("main",)),
    "eval/svamp": HubSet("ChilleD/SVAMP", hub_rows.svamp, ("train", "test")),
    "eval/gsm_hard": HubSet("reasoning-machines/gsm-hard", hub_rows.gsm_hard, ("train",)),
    "eval/humaneval": HubSet("openai/openai_humaneval", hub_rows.humaneval, ("test",)),
    "eval/mbpp": HubSet("google-research-datasets/mbpp", hub_rows.mbpp, ("test",), ("full",)),
    "eval/mbpp_fewshot": HubSet("google-research-datasets/mbpp", hub_rows.mbpp, ("prompt",), ("full",)),
}


def fetch(name: str, folder: Path) -> Path:
    """Write the set behind `name` into `folder` and give back its path.

    Raises:
        MissingExtraError: the datasets package is not installed.
        DataError: the set cannot be had, or is not what it was.
    """
    rows = list(_rows(name, HUB_SETS[name]))
    if not rows:
        raise DataError("a set of the Hub has no rows", where=HUB_SETS[name].address)
    path = folder / f"{name}.jsonl"
    try:
        write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    except OSError as error:
        do = "free space, or set TCLORA_CACHE to a folder that can be written"
        raise DataError("a set of the Hub cannot be kept", where=path, found=error.strerror, do=do) from None
    return path


def _rows(name: str, hub: HubSet) -> Iterator[dict[str, Any]]:
    for config in hub.configs:
        index = 0
        for split in hub.splits:
            for row in _loaded(name, hub, config, split):
                converted = _converted(hub, row, f"{config}/{index}" if config else str(index))
                index += 1
                if hub.keep(converted):
                    yield converted


def _loaded(name: str, hub: HubSet, config: str | None, split: str) -> Any:
    do = f"go online once, or name a folder that holds {name}.jsonl.gz, or set TCLORA_DATA to it"
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            "the file of a benchmark is not here, and the Hub needs the datasets package",
            where=name,
            do=f"pip install 'tclora[eval]', or name a folder that holds {name}.jsonl.gz",
        ) from None
    try:
        return datasets.load_dataset(hub.id, config, split=split)
    except Exception as error:  # what a failed download raises changes with every release of the Hub's client
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DataError("a set cannot be had from the Hub", where=hub.address, found=found, do=do) from error


def _converted(hub: HubSet, row: Mapping[str, Any], key: str) -> dict[str, Any]:
    try:
        return hub.convert(row, key) | {"source": hub.id}
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            "a row of the Hub is not what it was",
            where=f"{hub.address}, row {key}",
            found=f"{type(error).__name__}: {error}",
            do="name a folder that holds the file instead",
        ) from error
