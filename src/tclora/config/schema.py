"""The settings of every stage, as frozen pydantic models.

Defaults are the paper's where it states them (arXiv 2508.03999 and its first author's code): K = 10, k-means on a
20 % sample, LoRA r 4, alpha 16, dropout 0.05, lr 1e-4, 6 % warm-up, batch 16, 5 epochs, attention projections.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "BaseModelConfig",
    "ChoiceTaskConfig",
    "ClusterConfig",
    "DataConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "HoldOutConfig",
    "MergeConfig",
    "RunConfig",
    "TrainConfig",
]

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class BaseModelConfig(_Settings):
    """Which frozen base model, and how prompts are put to it."""

    path: str
    """A local folder, a Hub id, or `bundled` for the small base that ships with tclora."""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    template: Literal["auto", "chat", "plain"] = "auto"
    """`auto`: the tokenizer's own chat template, or the plain instruction template where it has none."""
    max_length: Count = 1024
    """Tokens of prompt and response together; longer prompts lose tokens on the left."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count | None = None
    """Torch threads; 1 is fastest on a busy two-core machine. None leaves torch's own choice."""
    trust_remote_code: bool = False


class HoldOutConfig(_Settings):
    """Leave out rows a base has already been trained on, by a hash of their text."""

    modulus: Count
    remainder: Annotated[int, Field(ge=0)] = 0


class DataConfig(_Settings):
    """Which files hold the examples. Paths may use `$VARIABLES` and `~` and globs."""

    train: tuple[str, ...] = Field(min_length=1)
    dev: tuple[str, ...] = ()
    """Without dev files, `dev_fraction` of the training examples are kept apart."""
    held_out: tuple[str, ...] = ()
    """Examples of tasks that are not trained on; scored apart, so that a report can speak of unseen tasks."""
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt_completion", "flan", "text"] = "auto"
    fields: dict[str, str] = Field(default_factory=dict)
    """Our field name to the file's, e.g. `{instruction: question, output: answer}`."""
    max_train: Count | None = None
    max_dev: Count | None = None
    max_held_out: Count | None = None
    """Upper bounds; rows are sampled evenly over tasks where tasks are known, by `seed`."""
    hold_out_sha1: HoldOutConfig | None = None
    """Drop training rows with `int(sha1(instruction + "\\n" + input), 16) % modulus == remainder`."""


class EncodeConfig(_Settings):
    """How examples become vectors for clustering."""

    encoder: Literal["tfidf", "hidden_states", "sentence_transformers", "precomputed"] = "tfidf"
    model: str | None = None
    """sentence_transformers: an id or folder (the paper: `sentence-transformers/sentence-t5-xxl`)."""
    path: str | None = None
    """precomputed: a `.npy` with one row for each training, then each dev example."""
    text: Literal["instruction", "instruction_and_input"] = "instruction_and_input"
    dim: Count = 64
    """tfidf: dimensions kept by the SVD."""
    n_features: Count = 2**16
    batch_size: Count = 32


class ClusterConfig(_Settings):
    """k-means as in the paper: fitted on a sample, then every example is assigned."""

    n_clusters: Count = 10
    sample_fraction: Fraction = 0.2
    n_init: Count = 10
    max_iter: Count = 300


class TrainConfig(_Settings):
    """One LoRA per cluster."""

    r: Count = 4
    lora_alpha: float = 16
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    use_rslora: bool = False
    target_modules: tuple[str, ...] | str = "attention"
    """`attention`: the attention projections of the architecture; `all-linear`; names; or a regex."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.06
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    batch_size: Count = 16
    micro_batch_size: Count | None = None
    """Rows in one forward pass; None: the whole batch. Smaller saves memory and changes nothing else."""
    epochs: Annotated[float, Field(gt=0)] = 5
    max_steps: Count | None = None
    """An upper bound on optimizer steps for each adapter."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    checkpoint_every: Count = 50
    """Optimizer steps between checkpoints; a killed run goes on from the last one."""
    multi_task: bool = True
    """Also train the control: one LoRA on all data, with as many tokens as the whole library."""


class MergeConfig(_Settings):
    """One merged adapter of the run: a method of `tclora methods` and its parameters."""

    method: str
    name: str | None = None
    """The folder's and the table's name; None: the method's."""
    params: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    weights: tuple[float, ...] | Literal["uniform", "size"] = "uniform"
    """`size`: in proportion to the number of examples of each cluster."""
    scale: float = 1.0
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"

    @property
    def label(self) -> str:
        return self.name or self.method


class ChoiceTaskConfig(_Settings):
    """A multiple-choice file of the shared schema: id, context, question, choices, answer."""

    path: str
    name: str | None = None
    normalize: Literal["none", "tokens", "bytes"] = "bytes"
    """What the log-likelihood of a choice is divided by before choices are compared."""
    max_items: Count | None = 200


class EvaluateConfig(_Settings):
    """What every contestant is scored on."""

    batch_size: Count = 32
    exact_match: bool = True
    max_exact_match: Count | None = None
    """Examples per cluster whose answer is generated; None: all dev examples."""
    max_new_tokens: Count = 32
    choice_tasks: tuple[ChoiceTaskConfig, ...] = ()
    n_bootstrap: Count = 1000


class RunConfig(_Settings):
    """The whole pipeline."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    output: str
    seed: Annotated[int, Field(ge=0)] = 0
    base: BaseModelConfig
    data: DataConfig
    encode: EncodeConfig = EncodeConfig()
    cluster: ClusterConfig = ClusterConfig()
    train: TrainConfig = TrainConfig()
    merge: tuple[MergeConfig, ...] = (
        MergeConfig(method="tc_lora"),
        MergeConfig(method="svd", params={"rank": 20}),
        MergeConfig(method="mean"),
    )
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> "RunConfig":
        labels = [merge.label for merge in self.merge]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two merges are called '{label}': give one of them a `name`")
        return self
