"""The settings of an experiment of kind `skills`: pairs of skills x sizes x seeds x merges.

In: the file's keys. Out: `SkillsSettings`. A content skill and a format skill are each learned by an adapter of its
own; the test asks for both at once. Refused: pairs that stand twice, a rival or a gap that names nobody.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tclora.config.experiment import ExperimentSettings, Name, Part, Value
from tclora.config.experiment_merges import GapConfig
from tclora.config.schema import BaseModelConfig, Count, TrainConfig

__all__ = ["CONTROLS", "PairConfig", "SizeConfig", "SkillMergeConfig", "SkillsSettings"]

CONTROLS = ("base", "content only", "format only", "multi_task", "oracle")
"""Who takes part without being a merge."""


class PairConfig(Part):
    """A content skill and a format skill, by the names that `tclora.testbeds` gives them."""

    content: str
    format: str

    @property
    def name(self) -> str:
        """How the pair is called in tables."""
        return f"{self.content} + {self.format}"


class SizeConfig(Part):
    """How hard the skills are and how much is trained."""

    level: Literal[1, 2, 3] = 1
    n_content: Count = 800
    """Training rows of a content skill, and of the oracle."""
    n_format: Count = 150
    steps: Count = 100
    """Optimizer steps of an adapter of one skill and of the oracle; the multi-task adapter has twice as many."""


class SkillMergeConfig(Part):
    """A merge that takes part."""

    method: str | None = None
    """The name of `tclora methods`; None: the contestant's own name."""
    params: dict[str, Value] = Field(default_factory=dict)
    of: Literal["pair", "library"] = "pair"
    """What is merged: the two adapters of the pair, or those of all skills in the experiment."""
    output_rank: Count | None = None
    """The result is cut to this rank by an SVD of each module."""
    scale: Annotated[float, Field(gt=0)] | Literal["choose"] = "choose"


class SkillsSettings(ExperimentSettings):
    """Pairs x sizes x seeds x contestants."""

    base: BaseModelConfig = BaseModelConfig(path="bundled", threads=1, device="cpu")
    train: TrainConfig = TrainConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", lr=5e-3, batch_size=16
    )
    """`epochs` and `max_steps` follow from the sizes."""
    pairs: tuple[PairConfig, ...] = Field(min_length=1)
    content_formats: tuple[str, ...] = ()
    """Format skills, of no pair, in which a content skill is learned too; none: with plain answers alone."""
    format_contents: dict[Name, tuple[str, ...]] = Field(default_factory=dict)
    """By format: content skills, of no pair, on whose questions it is learned too; none: on repeating words alone."""
    sizes: dict[Name, SizeConfig] = Field(min_length=1)
    contestants: dict[Name, SkillMergeConfig] = Field(min_length=1)
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.7, 1.0, 1.4, 2.0, 2.8), min_length=1)
    """Tried for every merge whose scale is to be chosen, on joint dev questions."""
    n_test: Count = 100
    """Joint test questions of each pair and seed."""
    n_choose: Count = 40
    """Joint dev questions of each pair and seed, for scales alone."""
    n_own: Count = 30
    """Test questions of each skill alone."""
    max_new_tokens: Count = 24
    batch_size: Count = 64
    rivals: tuple[str, ...] = ("mean",)
    about: tuple[str, ...] = ()
    gap: GapConfig | None = GapConfig(start="mean", end="oracle")

    @model_validator(mode="after")
    def _names_mean_something(self) -> "SkillsSettings":
        if taken := [name for name in self.contestants if name in CONTROLS]:
            raise ValueError(f"every experiment of kind skills has {taken[0]} of its own: give the merge another name")
        ends = () if self.gap is None else (self.gap.start, self.gap.end)
        for where, names in (("rivals", self.rivals), ("about", self.about), ("gap", ends)):
            if unknown := [name for name in names if name not in self.everyone]:
                raise ValueError(f"{where} names no contestant: {unknown[0]}")
        names = [pair.name for pair in self.pairs]
        if len(set(names)) < len(names):
            raise ValueError("a pair of skills stands twice")
        if unknown := [name for name in self.format_contents if name not in self.formats]:
            raise ValueError(f"format_contents names a format of no pair: {unknown[0]}")
        if both := [name for names in self.format_contents.values() for name in names if name in self.contents]:
            raise ValueError(f"{both[0]} is the content of a pair, so no format may be learned on it")
        if both := [name for name in self.content_formats if name in self.formats]:
            raise ValueError(f"{both[0]} is the format of a pair, so no content may be learned in it")
        return self

    @property
    def everyone(self) -> tuple[str, ...]:
        """The controls, then the merges."""
        return (*CONTROLS, *self.contestants)

    @property
    def contents(self) -> tuple[str, ...]:
        """The content skills of all pairs, each once."""
        return tuple(dict.fromkeys(pair.content for pair in self.pairs))

    @property
    def formats(self) -> tuple[str, ...]:
        """The format skills of all pairs, each once."""
        return tuple(dict.fromkeys(pair.format for pair in self.pairs))
