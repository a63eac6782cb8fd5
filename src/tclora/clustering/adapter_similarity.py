"""How alike the adapters of a library are: cosines of their updates, from the low-rank factors.

In: a folder of PEFT adapters, each in a folder named by its task (`/` and other signs may be written as any sign that a
file name allows). Out: points whose squared distance is `2 - 2 cosine`, one for each adapter. Nothing of size
`d_out x d_in` is built: with `delta = lora_b @ lora_a`, the inner product of two updates is the sum of the entries of
`(lora_b.T @ lora_b') * (lora_a @ lora_a'.T)`. A module that an adapter lacks counts as zero. Refused: a library without
adapters, none of the tasks among them, one task meant by two folders, an adapter whose update is zero.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tclora.adapters import Adapter, read_adapter
from tclora.errors import AdapterError, AdapterMismatchError, ConfigError, NumericalError
from tclora.shapes import Float

__all__ = ["cosine_coordinates", "library_tasks", "update_products"]


def library_tasks(library: Path, tasks: Sequence[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The adapter folder of each task that has one, in the order of `tasks`, and the folders of no task.

    Raises:
        ConfigError: there is no such folder, it holds no adapter, or none that is named by a task.
        AdapterError: two folders or two tasks share a name.
    """
    folders: dict[str, Path] = {}
    for config in sorted(library.rglob("adapter_config.json")) if library.is_dir() else ():
        name = _plain(config.parent.relative_to(library).as_posix())
        if name in folders:
            raise AdapterError(
                "two adapters are named by one task", where=library, found=f"{folders[name].name}, {config.parent.name}"
            )
        folders[name] = config.parent
    if not folders:
        raise ConfigError("there are no adapters", where=library, do="check cluster.library")
    names = {task: _plain(task) for task in tasks}
    twice = sorted(task for task in names if list(names.values()).count(names[task]) > 1 and names[task] in folders)
    if twice:
        raise AdapterError("two tasks mean one adapter folder", where=library, found=", ".join(twice[:4]))
    found = {task: folders[name] for task, name in names.items() if name in folders}
    if not found:
        raise ConfigError(
            "no adapter of the library is named by a task of the data",
            where=library,
            found=f"adapters {_few(sorted(folders))}; tasks {_few(sorted(names))}",
            do="name each adapter's folder by its task",
        )
    return found, tuple(folder.name for folder in folders.values() if folder not in found.values())


def cosine_coordinates(folders: Sequence[Path]) -> Float[np.ndarray, "n c"]:
    """Points of unit length whose inner products are the cosines of the adapters' updates.

    Raises:
        NumericalError: an adapter's update is zero, so that it has no direction.
        AdapterMismatchError: a module has different shapes in two adapters.
    """
    products = update_products([read_adapter(folder) for folder in folders])
    sizes = np.sqrt(np.diag(products))
    if not (sizes > 0).all():
        raise NumericalError(
            "an adapter changes nothing, so it is like no other",
            where=folders[int(np.argmin(sizes))],
            do="train it, or leave it out of the library",
        )
    cosines = products / sizes[:, None] / sizes[None]
    values, vectors = np.linalg.eigh((cosines + cosines.T) / 2)
    # Of each axis the largest entry is positive, so that the points do not depend on how eigenvectors are signed.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])
    # Below this an eigenvalue is rounding, whose root would set equal adapters apart.
    lengths = np.sqrt(np.where(values > 1e-12 * len(values), values, 0))
    return np.round(vectors * signs * lengths, 9)


def update_products(adapters: Sequence[Adapter]) -> Float[np.ndarray, "n n"]:
    """Inner products of the adapters' updates, over all modules, in float64."""
    total = np.zeros((len(adapters), len(adapters)))
    for module in sorted({path for adapter in adapters for path in adapter.shapes}):
        owners = [index for index, adapter in enumerate(adapters) if module in adapter.shapes]
        _check_shapes(module, [adapters[index] for index in owners])
        factors = [adapters[index].modules[module] for index in owners]
        outer = torch.cat([each.lora_b.double() for each in factors], dim=1)
        inner = torch.cat([each.lora_a.double() for each in factors], dim=0)
        terms = (outer.T @ outer) * (inner @ inner.T)
        owner = np.repeat(np.arange(len(owners)), [each.lora_a.shape[0] for each in factors])
        blocks = np.zeros((len(owners), len(owner)))
        blocks[owner, np.arange(len(owner))] = 1
        total[np.ix_(owners, owners)] += blocks @ terms.numpy() @ blocks.T
    return total


def _check_shapes(module: str, adapters: Sequence[Adapter]) -> None:
    shapes = {adapter.name: (adapter.shapes[module].d_out, adapter.shapes[module].d_in) for adapter in adapters}
    if len(set(shapes.values())) > 1:
        raise AdapterMismatchError(
            "adapters of different bases cannot be compared",
            where=f"module {module}",
            found=", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:4]),
            expected="one shape for a module",
        )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
