"""What the rules of servers look at: the config as written, the names and shapes of the tensors, the base if known.

In: a folder or an id on the Hub. Out: `ServingFacts`; no tensor is read. An adapter that this library refuses to merge
(DoRA, biases ...) still has facts, for a server may load it. Refused: folders without the two files, a config that is
not a JSON object, a weights file whose header is damaged.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tclora.adapters.base import BaseShapes
from tclora.adapters.config import LoraConfig, read_config
from tclora.adapters.keys import ModuleKeys
from tclora.adapters.locate import WEIGHTS_FILE, locate
from tclora.adapters.peft_format import scan_adapter
from tclora.adapters.scaling import module_scales
from tclora.adapters.serving.findings import some
from tclora.adapters.stored_modules import open_tensors
from tclora.adapters.targets import leaf_of
from tclora.adapters.unsupported import BASE_CHANGING_INITS
from tclora.adapters.weights_file import read_header
from tclora.errors import AdapterError

__all__ = ["ServingFacts", "serving_facts"]

_UNSET = (None, False, "", 0)


@dataclass(frozen=True)
class ServingFacts:
    """One adapter as a server's loader sees it.

    `raw` is the config as written, `config` its checked form (None where a field is broken), `names` every tensor name,
    `modules` the LoRA pairs among them, `scales` the factor that PEFT applies to each (empty where it cannot be known),
    `base` the base model's shapes where the caller has them.
    """

    folder: Path
    raw: Mapping[str, Any]
    config: LoraConfig | None
    names: tuple[str, ...]
    modules: Mapping[str, ModuleKeys]
    scales: Mapping[str, float]
    base: BaseShapes | None = None

    @cached_property
    def paths(self) -> list[str]:
        """The module paths that hold a LoRA."""
        return list(self.modules)

    @cached_property
    def leaves(self) -> set[str]:
        """The last parts of the module paths, as in `q_proj`."""
        return {leaf_of(path) for path in self.modules}

    @cached_property
    def loose_names(self) -> list[str]:
        """Tensor names that belong to no LoRA pair: biases, magnitudes, full tensors, copies of base weights."""
        paired = {name for keys in self.modules.values() for name in (keys.lora_a, keys.lora_b)}
        return [name for name in self.names if name not in paired]

    def rewritable(self, names: Iterable[str]) -> bool:
        """Whether writing the adapter again gives all these tensors their usual names or leaves out what is spare."""
        loose = set(self.loose_names)
        return all(name not in loose or ".base_layer." in name for name in names)

    @cached_property
    def largest_rank(self) -> int:
        """The largest rank of a tensor or of the config; servers look at either."""
        stated = [] if self.config is None else [self.config.r, *self.config.rank_pattern.values()]
        return max([*stated, *(keys.shape.r for keys in self.modules.values())], default=0)

    def is_set(self, name: str) -> bool:
        """Whether a field of the config holds anything but what leaving it out would mean."""
        value = self.raw.get(name)
        return value not in _UNSET and value not in ([], {})

    def listed(self, name: str) -> list[str]:
        """A field of the config that lists names, as text; a single text is a list of one."""
        value = self.raw.get(name)
        items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        return [str(item) for item in items]

    def overrides(self, field: str) -> dict[str, float]:
        """The entries of `rank_pattern` or `alpha_pattern` that differ from the adapter-wide value."""
        if self.config is None:
            return {}
        table, whole = {
            "rank_pattern": (self.config.rank_pattern, self.config.r),
            "alpha_pattern": (self.config.alpha_pattern, self.config.alpha),
        }[field]
        return {key: float(value) for key, value in table.items() if value != whole}

    def overrides_in_words(self) -> str:
        """Both patterns' entries that change a value, as text; empty if there are none."""
        entries = {field: self.overrides(field) for field in ("rank_pattern", "alpha_pattern")}
        return "; ".join(f"{field}: {some(keys)}" for field, keys in entries.items() if keys)

    def misscaled(self, served: Mapping[str, float]) -> str:
        """The modules whose factor in `served` is not the one that PEFT takes, as text; empty if there are none."""
        wrong = {path: factor for path, factor in served.items() if not math.isclose(factor, self.scales[path])}
        return some(f"{path}: {factor:g} for {self.scales[path]:g}" for path, factor in wrong.items())

    @cached_property
    def base_changing_init(self) -> str | None:
        """The initialization that changes the base weights when PEFT loads the adapter, if the config names one."""
        name = str(self.raw.get("init_lora_weights")).lower()
        # LoRA-GA changes them while training only: a saved one loads like any other, right or wrong.
        return name[:50] if name.startswith(BASE_CHANGING_INITS) and not name.startswith("lora_ga") else None


def serving_facts(source: str | Path, *, base: BaseShapes | None = None) -> ServingFacts:
    """Read what the rules look at.

    Raises:
        AdapterError: the adapter is not there, or its config or its header cannot be read.
    """
    folder = locate(source).folder
    raw, header = read_config(folder), read_header(folder / WEIGHTS_FILE)
    # The header may be sound and the data not.
    open_tensors(folder / WEIGHTS_FILE)
    empty = next((name for name, info in header.items() if 0 in info.shape), None)
    if empty is not None:
        raise AdapterError(f"{empty} holds nothing", where=folder, found=f"shape {header[empty].shape}")
    scan = scan_adapter(folder)
    scales = _scales(scan.config, scan.table.modules, folder)
    return ServingFacts(folder, raw, scan.config, tuple(header), scan.table.modules, scales, base)


def _scales(config: LoraConfig | None, modules: Mapping[str, ModuleKeys], folder: Path) -> Mapping[str, float]:
    try:
        return module_scales(config, modules, where=folder) if config is not None else {}
    except AdapterError:
        # The reason stands among the adapter's refusals.
        return {}
