"""The merge methods, one file per family. Importing this package registers them all."""

from tclora.merging.methods import linear, spectral, tc_lora

__all__ = ["linear", "spectral", "tc_lora"]
