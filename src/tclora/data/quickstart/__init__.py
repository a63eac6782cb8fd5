"""The tasks `tclora quickstart` learns: short instructions written by this project, drawn from a seed.

In: a seed and row counts. Out: training rows, dev rows (other inputs of the same families) and held-out rows (families
never trained on, each of which composes two that are). Refused: negative counts, and more rows than a family has.
"""

from dataclasses import dataclass

from tclora.data.example import Example
from tclora.data.quickstart.family import draw_examples
from tclora.data.quickstart.numbers import NUMBER_FAMILIES
from tclora.data.quickstart.structure import HELD_OUT_STRUCTURE_FAMILIES, STRUCTURE_FAMILIES
from tclora.data.quickstart.text import HELD_OUT_TEXT_FAMILIES, TEXT_FAMILIES
from tclora.errors import ConfigError

__all__ = ["FAMILIES", "HELD_OUT_FAMILIES", "QuickstartTasks", "quickstart_examples"]

_TRAINED = TEXT_FAMILIES + NUMBER_FAMILIES + STRUCTURE_FAMILIES
_HELD_OUT = HELD_OUT_TEXT_FAMILIES + HELD_OUT_STRUCTURE_FAMILIES

FAMILIES: tuple[str, ...] = tuple(family.name for family in _TRAINED)
"""The families of the training and dev rows."""
HELD_OUT_FAMILIES: tuple[str, ...] = tuple(family.name for family in _HELD_OUT)
"""Families that are only tested: `first_word_upper` = `first_word` + `upper_case`, `record_date` = `json_field` +
`iso_date`."""


@dataclass(frozen=True)
class QuickstartTasks:
    """Examples of the bundled tasks; no input is in two of the three parts."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    held_out: tuple[Example, ...]


def quickstart_examples(*, seed: int = 0, n_train: int, n_dev: int, n_held_out: int) -> QuickstartTasks:
    """Draw the bundled tasks: `n_train` and `n_dev` rows of each family, `n_held_out` of each held-out family.

    The same arguments give the same rows in every process. Rows stand family by family. Dev rows depend on the seed
    and `n_dev` only, so they stay while `n_train` changes.

    Raises:
        ConfigError: a count is negative, or larger than a family has distinct inputs (the smallest have 504).
    """
    for name, count in (("n_train", n_train), ("n_dev", n_dev), ("n_held_out", n_held_out)):
        if count < 0:
            raise ConfigError(f"`{name}` is negative", found=count, expected="0 or more", do=f"give a larger `{name}`")
    rows = [draw_examples(family, n_dev + n_train, seed=seed) for family in _TRAINED]
    return QuickstartTasks(
        train=tuple(example for family_rows in rows for example in family_rows[n_dev:]),
        dev=tuple(example for family_rows in rows for example in family_rows[:n_dev]),
        held_out=tuple(example for family in _HELD_OUT for example in draw_examples(family, n_held_out, seed=seed)),
    )
