"""The merge methods, one file per family. Importing this package registers them all."""

from tclora.merging.methods import (
    alignment,
    distill,
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
    tc_lora_polar,
    tucker,
)

__all__ = [
    "alignment",
    "distill",
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
    "tc_lora_polar",
    "tucker",
]
