"""Whether adapters belong to the base model that a request names: one rule for every command that takes `--base`.

In: adapters and what the user typed. Out: sentences to show. Refused: modules that a base on this machine does not
have, and shapes that are not its own. A base that is only a name is compared by name; nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

from tclora.adapters import Adapter, base_shapes, check_against_base

__all__ = ["base_folder", "check_base"]


def base_folder(base: str) -> Path | None:
    """The folder of a base model on this machine; None where `base` is an id."""
    if base == "bundled":
        from tclora.models import bundled_base_path

        return bundled_base_path()
    folder = Path(base).expanduser()
    is_id = base.count("/") == 1 and not base.startswith((".", "~", "/"))
    return None if is_id and not folder.is_dir() else folder


def check_base(adapters: Sequence[Adapter], base: str | None) -> list[str]:
    """Refuse adapters that do not fit the base's headers; say which layers of it they leave out.

    Where only the base's name is known, say so, and which adapters name another one.

    Raises:
        AdapterError: the base's folder lacks `config.json` or safetensors weights, or one of them is damaged.
        AdapterMismatchError: an adapter does not fit; names it, the base, and the first modules that do not.
    """
    if base is None:
        return []
    folder = base_folder(base)
    if folder is None:
        return [
            f"{base} is no folder on this machine: the adapters are compared with its name alone",
            *(
                f"{adapter.name} names the base {adapter.base_model}, not {base}"
                for adapter in adapters
                if adapter.base_model not in (None, base)
            ),
        ]
    shapes = base_shapes(folder)
    return [sentence for adapter in adapters for sentence in check_against_base(adapter, shapes)]
