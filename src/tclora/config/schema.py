"""The settings of every stage, as frozen pydantic models.

Defaults are the paper's where it states them (arXiv 2508.03999 and its first author's code): K = 10, k-means on a
20 % sample, LoRA r 4, alpha 16, dropout 0.05, lr 1e-4, 6 % warm-up, batch 16, 5 epochs, attention projections.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tclora.config.lora_variants import check_initialization, drop_plain_settings, with_multi_task

__all__ = [
    "BaseModelConfig",
    "ChoiceTaskConfig",
    "ClusterConfig",
    "ControlName",
    "DataConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "ExecutionConfig",
    "HoldOutConfig",
    "MergeConfig",
    "RunConfig",
    "TrainConfig",
]

ControlName = Literal["multi_task", "multi_task_equal_parameters", "random_clusters", "per_task"]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# Of what becomes a folder's name.
_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
LearnShare = Literal["even", "size"]
ClusterAlgorithmName = Literal[
    "kmeans", "spherical_kmeans", "minibatch_kmeans", "agglomerative", "hdbscan", "spectral", "task", "random", "mbc"
]


def _n_clusters(value: Any) -> Any:
    """A whole number, also as the text that `${VARIABLE}` becomes; or `auto`."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number != "auto" and not (isinstance(number, int) and not isinstance(number, bool) and number >= 1):
        raise ValueError("a number of clusters is a whole number of 1 or more, or 'auto'")
    return number


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
    quantization: Literal["none", "4bit"] = "none"
    """`4bit`: the base's linear layers as NF4 through bitsandbytes, on CUDA only; adapters stay float32."""


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

    encoder: Literal["tfidf", "minilm", "paper", "hidden_states", "sentence_transformers", "precomputed"] = "tfidf"
    """`minilm`: all-MiniLM-L6-v2 from a PyPI package, offline; `paper`: sentence-t5-xxl; see docs/encoding.md."""
    model: str | None = None
    """sentence_transformers: a Hub id or folder; paper: a folder that holds sentence-t5-xxl, instead of the Hub."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    path: str | None = None
    """precomputed: a `.npy` with one row for each training, then each dev example."""
    text: Literal["instruction", "instruction_and_input"] = "instruction_and_input"
    dim: Count = 64
    """tfidf: dimensions kept by the SVD."""
    n_features: Count = 2**16
    batch_size: Count = 32
    """Texts in one pass of a model."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the stored rows; float16 halves the file and keeps rows of unit length to 1e-3."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a sentence encoder runs; hidden_states follows `base.device`."""
    compute_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """What a sentence encoder computes in; `auto`: float16 on CUDA, float32 on the CPU."""


class ClusterConfig(_Settings):
    """How examples are grouped. By default k-means as in the paper: fitted on a sample, then every example assigned."""

    n_clusters: Annotated[int | Literal["auto"], BeforeValidator(_n_clusters)] = 10
    algorithm: ClusterAlgorithmName = "kmeans"
    sample_fraction: Fraction = 0.2
    max_sample: Count | None = None
    """An upper bound on the rows that are fitted on; None: none, or the algorithm's own where it needs one."""
    n_init: Count = 10
    max_iter: Count = 300
    engine: Literal["auto", "scikit-learn", "faiss"] = "auto"
    """kmeans, spherical_kmeans. `auto`: faiss where it is installed and the sample is large, else scikit-learn."""
    linkage: Literal["ward", "average"] = "ward"
    """agglomerative: how clusters are joined."""
    library: str | None = None
    """mbc: a folder of adapters, one per task, each in a folder named by its task."""
    min_size: Count = 1
    """Rows a cluster must have."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens (or words, see `count`) a cluster must have."""
    too_small: Literal["dissolve", "refuse"] = "dissolve"
    """`dissolve`: a cluster below the minimum is taken away, and its rows go to the nearest that is left."""
    max_share: Fraction | None = None
    """The largest share a cluster may have; rows above it go to the next nearest cluster with room."""
    balanced: bool = False
    """All clusters as large as each other: `max_share` of one over their number."""
    balance_by: Literal["rows", "tokens"] = "rows"
    """What `max_share` and `balanced` count."""
    count: Literal["auto", "tokens", "words"] = "auto"
    """What sizes are counted in. `auto`: the base's tokens where its tokenizer is on this machine, else words."""
    candidates: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(default=None, min_length=1)
    """n_clusters: auto. The numbers to try; None: 2 to 10, then 12, 14, 16, 20, 24, 28 and 32."""
    rule: Literal["stability", "silhouette", "calinski_harabasz", "davies_bouldin", "gap"] = "stability"
    """n_clusters: auto. What decides; see docs/clustering.md."""
    choose_sample: Annotated[int, Field(ge=10)] = 5000
    """n_clusters: auto. Rows that the search runs on."""
    choose_min_size: Count = 16
    """n_clusters: auto. Rows that the smallest cluster must have; `min_size` where that is more."""
    n_resamples: Annotated[int, Field(ge=2)] = 10
    """n_clusters: auto. Resamples whose clusterings are compared."""
    map: Literal["pca", "umap", "none"] = "pca"
    """The picture of the clusters in the report: two principal axes, or UMAP (extra `umap`)."""


class TrainConfig(_Settings):
    """One LoRA per cluster."""

    r: Count = 4
    lora_alpha: float = 16
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    use_rslora: bool = False
    target_modules: tuple[str, ...] | str = "attention"
    """`attention`: the attention projections of the architecture; `all-linear`; names; or a regex."""
    layers: Literal["all", "first-half", "last-half"] | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    """Which layers get adapters, by number from 0; of an odd number the middle one is in the last half."""
    layers_pattern: str | None = None
    """The name of the base's list of layers (`layers`, `h`), where it cannot be told from the model."""
    rank_pattern: dict[str, Count] = Field(default_factory=dict)
    """Ranks by module, keyed as in PEFT: the end of a module path, or an expression for it; first match wins."""
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    init_lora_weights: Annotated[Literal[True] | str, BeforeValidator(check_initialization)] = True
    """true, gaussian, orthogonal, mica, eva; pissa, pissa_niter_N and olora are saved with twice the rank."""
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
    trainer: Literal["auto", "grouped", "plain"] = "auto"
    """`grouped`: several adapters in one pass over the base; `plain`: one after another through PEFT's layers; `auto`:
    grouped wherever adapters are trained together and the base allows it. See docs/training.md."""
    max_together: Count = 16
    """grouped: adapters held in memory and trained at the same time."""
    max_pass_tokens: Count | None = None
    """grouped: tokens in one forward pass; None: 1,024 on a CPU, 16,384 on CUDA."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work, the same result."""
    patience: Count | None = None
    """grouped: stop an adapter whose dev loss has not fallen for so many evaluations, and keep its best weights."""
    eval_every: Count | None = None
    """grouped, with patience: optimizer steps between evaluations of the dev loss; None: an epoch's."""
    multi_task: bool = True
    """Also train the control: one LoRA on all data, with as many tokens as the whole library."""
    controls: tuple[ControlName, ...] = ()
    """Further controls, each trained, merged and scored beside the library; see docs/training.md."""
    min_task_size: Count = 100
    """per_task: a task with fewer training examples shares one adapter with all other small ones."""

    _plain = model_validator(mode="before")(drop_plain_settings)

    @model_validator(mode="before")
    @classmethod
    def _multi_task_is_one_setting(cls, data: Any) -> Any:
        return with_multi_task(data)

    @field_validator("controls")
    @classmethod
    def _controls_are_distinct(cls, names: tuple[ControlName, ...]) -> tuple[ControlName, ...]:
        return tuple(dict.fromkeys(names))


class MergeConfig(_Settings):
    """One merged adapter of the run: a method of `tclora methods` and its parameters."""

    method: str
    name: Annotated[str, Field(pattern=_PLAIN_NAME)] | None = None
    """The folder's and the table's name; None: the method's."""
    params: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    weights: tuple[float, ...] | Literal["uniform", "size"] = "uniform"
    """`size`: in proportion to the number of examples of each cluster."""
    scale: float = 1.0
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    learn_rows: Count = 32
    """Training rows of each cluster that a method which learns reads; others have no use for them."""
    learn_share: LearnShare = "even"
    """`size`: as many rows in all, from each cluster in proportion to its size."""

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


class ExecutionConfig(_Settings):
    """Where jobs run. It changes how long a run takes, not what comes out."""

    executor: Literal["local", "processes", "ray"] = "local"
    """`local`: one after another in this process; `processes`: workers on this machine; `ray`: a cluster."""
    workers: Count | None = None
    """Jobs at the same time; None: one for each GPU, else by the cores. `local` always has one."""
    threads_per_worker: Count | None = None
    """CPU threads of a worker, and on Ray the CPUs it reserves; None: an even share, 1 on Ray. `base.threads` wins."""
    address: str = "auto"
    """ray: `auto` for the cluster this machine belongs to, `host:6379`, `ray://host:10001`, or `local` to start one."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a job is tried again after a lost worker or a failure that may pass."""


class RunConfig(_Settings):
    """The whole pipeline."""

    name: Annotated[str, Field(pattern=_PLAIN_NAME)] = "run"
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
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> "RunConfig":
        labels = [merge.label for merge in self.merge]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two merges are called '{label}': give one of them a `name`")
        return self
