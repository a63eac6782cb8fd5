"""Reading a PEFT LoRA folder: everything about it is checked here, and no tensor is read until it is asked for.

In: a folder, or an id on the Hub. Out: an `Adapter` whose deltas are exactly `lora_b @ lora_a`, the scaling folded
into `lora_b` this once. Refused: whatever is not a plain LoRA, by name. Where a file's tensors and its config
disagree about the modules, the tensors win and a note says so.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tclora.adapters.config import CONFIG_FILE, LoraConfig, parse_config, read_config
from tclora.adapters.files import FileState, file_state, read_bounded
from tclora.adapters.keys import KeyTable, sort_keys
from tclora.adapters.locate import WEIGHTS_FILE, Located, locate
from tclora.adapters.lora import Adapter, AdapterSource
from tclora.adapters.scaling import module_scales
from tclora.adapters.stored_modules import StoredModules
from tclora.adapters.targets import narrow_leaves, target_notes
from tclora.adapters.unsupported import config_refusals
from tclora.adapters.weights_file import TensorInfo, read_header
from tclora.errors import AdapterError

__all__ = ["Scan", "adapter_name", "read_adapter", "scan_adapter"]


@dataclass(frozen=True)
class Scan:
    """What config and header say, with every reason to refuse the adapter; fields are None where unreadable."""

    config: LoraConfig | None
    header: dict[str, TensorInfo]
    table: KeyTable
    scales: dict[str, float] | None
    refusals: tuple[AdapterError, ...]


def read_adapter(source: str | Path, *, name: str | None = None, revision: str | None = None) -> Adapter:
    """Read a PEFT LoRA adapter, with its scaling folded into `lora_b`.

    The update of module `x` is then exactly `x.lora_b @ x.lora_a`; no scaling remains. Tensors are float32 (float64
    where stored so), on the CPU, and are read module by module when `modules` is indexed.

    Args:
        source: a folder, or an id such as `org/name` on the Hub where no such folder exists.
        name: what to call the adapter; the folder's name without it.
        revision: of the Hub repository; folders have none.

    Raises:
        AdapterError: a file is missing, damaged or not safetensors, config and tensors disagree about a rank, or the
            adapter uses DoRA, `lora_bias`, `modules_to_save` or anything else that a sum of low-rank updates cannot
            represent. Indexing `modules` raises it for NaN and infinity. Names folder and tensor.

    Source: Hu et al. 2021, arXiv 2106.09685, section 4.1; rsLoRA, arXiv 2312.03732.
    """
    located = locate(source, revision=revision)
    state = file_state(located.folder / WEIGHTS_FILE)
    scan = scan_adapter(located.folder)
    if scan.refusals or scan.config is None or scan.scales is None:
        raise scan.refusals[0]
    modules = StoredModules(located.folder / WEIGHTS_FILE, scan.table.modules, scan.scales)
    return Adapter(
        name=name or adapter_name(located),
        modules=modules,
        shapes=MappingProxyType({path: keys.shape for path, keys in scan.table.modules.items()}),
        base_model=scan.config.base_model,
        base_revision=scan.config.base_revision,
        task_type=scan.config.task_type,
        source=_source(str(source), located, state),
        narrow_leaves=narrow_leaves(scan.config, scan.table.modules),
        notes=scan.table.notes + tuple(target_notes(scan.config, list(scan.table.modules))),
    )


def scan_adapter(folder: Path) -> Scan:
    """Check config and header together, collecting what is refused rather than raising it."""
    refusals: list[AdapterError] = []
    config, header, table, scales = None, {}, KeyTable({}), None
    try:
        raw = read_config(folder)
        refusals += config_refusals(raw, where=folder)
        config = parse_config(raw, where=folder)
    except AdapterError as error:
        refusals.append(error)
    try:
        header = dict(read_header(folder / WEIGHTS_FILE))
        table = sort_keys(header, where=folder)
        refusals += table.refusals
    except AdapterError as error:
        refusals.append(error)
    if config is not None and not refusals:
        try:
            scales = module_scales(config, table.modules, where=folder)
        except AdapterError as error:
            refusals.append(error)
        refusals += _tied_refusals(config, table, folder)
    return Scan(config, header, table, scales, tuple(refusals))


def adapter_name(located: Located) -> str:
    """What to call an adapter that was not given a name: the last part of its path or id."""
    if located.revision:
        return located.id.rsplit("/", 1)[-1]
    return located.folder.name if located.folder.name not in ("", "..") else located.folder.resolve().name


def _tied_refusals(config: LoraConfig, table: KeyTable, folder: Path) -> list[AdapterError]:
    tied = [path for path, keys in table.modules.items() if keys.shape.kind == "embedding"]
    if not (config.ensure_weight_tying and tied):
        return []
    return [
        AdapterError(
            "an embedding whose LoRA is tied to the output layer cannot be represented",
            where=folder,
            found=f"ensure_weight_tying, and tensors for {tied[0]}",
            expected="deltas that are independent of each other",
            do="leave this adapter out, or train it again without ensure_weight_tying",
        )
    ]


def _source(typed: str, located: Located, state: FileState) -> AdapterSource:
    config = read_bounded(located.folder / CONFIG_FILE, 2**30)
    return AdapterSource(typed, str(located.folder), located.revision, hashlib.sha256(config).hexdigest(), state)
