"""Many LoRA adapters to one: clustered training and tensorised merging (TC-LoRA, arXiv 2508.03999).

Names are loaded on first use, so `import tclora` is instant and never imports transformers or ray.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "Adapter": "adapters",
    "LoraFactors": "adapters",
    "make_adapter": "adapters",
    "read_adapter": "adapters",
    "write_adapter": "adapters",
    "compress_stack": "algebra",
    "cp_als": "algebra",
    "CompressedStack": "algebra",
    "CpFactors": "algebra",
    "CpFit": "algebra",
    "LowRankDelta": "algebra",
    "ModuleStack": "algebra",
    "lift": "algebra",
    "merge_adapters": "merging",
    "MERGE_METHODS": "merging",
    "TcLoraError": "errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tclora' has no attribute '{name}'")
    return getattr(import_module(f"tclora.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
