"""The merge methods, one file per family. Importing this package registers them all."""

from tclora.merging.methods import (
    alignment,
    factors,
    isotropic,
    learned,
    lego,
    linear,
    regmean,
    spaces,
    sparse,
    spectral,
    spherical,
    tc_lora,
    tucker,
)

__all__ = [
    "alignment",
    "factors",
    "isotropic",
    "learned",
    "lego",
    "linear",
    "regmean",
    "spaces",
    "sparse",
    "spectral",
    "spherical",
    "tc_lora",
    "tucker",
]
