"""What an analysis may be asked for."""

from dataclasses import dataclass

from tclora.errors import ConfigError

__all__ = ["AnalysisSettings"]


# What the command line calls them.
_FLAGS = {"cp_rank": "--cp-rank", "n_starts": "--starts", "max_iter": "--sweeps"}


@dataclass(frozen=True)
class AnalysisSettings:
    """`cp_rank`: terms of the CP model whose interference is measured; None fits none, which takes a quarter less time.

    `curve`: also fit CP models of fewer and more terms. `n_starts` and `max_iter` steer the solver: its two starts from
    singular vectors and some sweeps are enough to read a model, if not to merge by it. `grid`: rows and columns on
    which signs are compared. `seed`: of the starts and of the rows and columns.

    Raises:
        ConfigError: a number is too small.
    """

    cp_rank: int | None = 20
    curve: bool = False
    n_starts: int = 0
    max_iter: int = 10
    grid: int = 64
    seed: int = 0

    def __post_init__(self):
        for name, low in (("cp_rank", 1), ("n_starts", 0), ("max_iter", 1), ("grid", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                flag = _FLAGS.get(name, f"--{name}")
                expected = f">= {low}" + (", or 0 for no CP model" if name == "cp_rank" else "")
                raise ConfigError(f"'{name}' of an analysis is too small", where=flag, found=value, expected=expected)

    @property
    def fits_models(self) -> bool:
        """Whether any CP model is fitted, which needs joint bases."""
        return self.cp_rank is not None or self.curve
