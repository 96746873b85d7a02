"""The configuration's schema: one dataclass a group. A wrong key, type or value stops here, before any heavy import.

Defaults live in `conf/*.yaml`, once; fields here have none. `cfg` dies in `run.py`: everything below it takes plain
typed arguments. Durations and sizes carry their unit in the name.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from typing import Any

from harness import ranges
from harness.errors import ConfigError
from harness.schema import CHECKS, ModelConfig, TaskConfig, one_of

ENCODER_DECODERS = ("bart", "t5")
# What accelerate.tracking speaks to, beside W&B
TRACKERS = ("tensorboard", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio")
OPTIMIZERS = ("adamw", "paged_adamw", "adamw_hf")


@dataclass
class DataConfig:
    """How text becomes batches. `root` is a directory in the official layout; without it the hub is asked."""

    root: str | None
    max_length_tokens: int
    max_target_tokens: int
    buckets: bool
    eval_batch_size: int
    max_train_rows: int | None
    max_eval_rows: int | None

    @property
    def lengths(self) -> dict[str, int]:
        """Where texts are cut, as `data.encode` takes it."""
        return {"max_length_tokens": self.max_length_tokens, "max_target_tokens": self.max_target_tokens}


@dataclass
class TrainConfig:
    """The optimisation: AdamW, linear warm-up and decay, clipping, accumulation, checkpoint selection.

    `optimizer` is torch's AdamW, the same with its state paged out of a full GPU, or transformers' former one.
    `max_steps` wins over `epochs`; of `warmup_steps` and `warmup_ratio` the first that is set wins.
    `retry_out_of_memory` halves the micro-batches, never the effective batch, and says so in the record.
    `gradient_checkpointing`, `compile` and `cuda_graphs` change what a step costs, and its result by rounding
    (harness/execution.py).
    `cache_features` runs what lies below the first trained layer once a text, without dropout: another process
    (harness/features.py).
    """

    learning_rate: float
    epochs: float
    max_steps: int | None
    batch_size: int
    accumulation_steps: int
    optimizer: str
    warmup_steps: int | None
    warmup_ratio: float
    schedule: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    clip_norm: float | None
    label_smoothing: float
    loss_reduction: str
    precision: str
    select: str
    evaluate_every_epochs: float | None
    retry_out_of_memory: bool
    gradient_checkpointing: bool
    compile: bool
    cuda_graphs: bool
    cache_features: bool

    def __post_init__(self) -> None:
        one_of("train.optimizer", self.optimizer, OPTIMIZERS)
        one_of("train.schedule", self.schedule, ("linear", "constant"))
        one_of("train.loss_reduction", self.loss_reduction, ("mean", "sum"))
        one_of("train.precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("train.select", self.select, ("last", "best"))
        ranges.check(self, "train")
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                f"train.batch_size={self.batch_size} cannot be split into train.accumulation_steps="
                f"{self.accumulation_steps} equal micro-batches; choose a divisor of {self.batch_size}"
            )
        if self.compile and self.cuda_graphs:
            raise ConfigError("train.cuda_graphs=true compiles already, length by length; leave train.compile=true out")
        if self.cache_features and (self.compile or self.cuda_graphs):
            other = "compile" if self.compile else "cuda_graphs"
            raise ConfigError(
                f"train.cache_features=true looks features up on the host at every step, which train.{other}=true cannot "
                "make part of a program; set one of the two"
            )


@dataclass
class QuantizationConfig:
    """How the frozen backbone's linear layers are stored; the head and every adapter keep full precision.

    `compute_dtype` (4 bits): what the weights are multiplied in, `auto` as `train.precision`. `outlier_threshold`
    (int8): input columns with a larger value are multiplied in higher precision.
    """

    name: str
    weights: str
    double_quant: bool
    compute_dtype: str
    outlier_threshold: float

    def __post_init__(self) -> None:
        one_of("quantization.weights", self.weights, ("none", "nf4", "fp4", "int8", "bf16"))
        one_of("quantization.compute_dtype", self.compute_dtype, ("auto", "float32", "bfloat16"))
        if self.double_quant and self.weights not in ("nf4", "fp4"):
            raise ConfigError(f"quantization.double_quant=true needs 4-bit weights (nf4, fp4), not {self.weights}")


@dataclass
class GenerationConfig:
    """Decoding of a text-to-text task, for `generate`.

    Where `min_new_tokens`, `length_penalty` or `no_repeat_ngram_size` is None, the backbone's own generation configuration
    decides. `validation_rows`: while it trains, a run scores at most the first so many rows of the split that selects (None:
    all of them); at the end it scores every row.
    """

    num_beams: int
    max_new_tokens: int
    min_new_tokens: int | None
    length_penalty: float | None
    no_repeat_ngram_size: int | None
    validation_rows: int | None


@dataclass
class BudgetConfig:
    """A parameter budget: a level of the papers, or a ceiling on the adapter's parameters (the head is not counted).

    `max_adapter_params` wins: the method gets the largest size below it. Otherwise, where the level gives this method
    no size on this backbone (`sized`: it does), the same with the level's own ceiling: `level_params`, or
    `level_percent` of the backbone's parameters.
    """

    name: str
    max_adapter_params: int | None
    level_params: int | None
    level_percent: float | None
    sized: bool


@dataclass
class RecipeConfig:
    """Which hyper-parameter rows were applied, and from where. Descriptive: not part of a run's identity.

    `tags` says where each value comes from (harness/recipe.py), `search` the values among which the paper chose without
    saying which, `trials` how many runs of a search of ours chose the values (0: none), `seeds` the paper's. `variant`
    chooses where script and paper disagree.
    """

    name: str
    note: str
    variant: str
    tags: dict[str, str]
    search: dict[str, Any]
    seeds: list[int]
    trials: int


@dataclass
class PreflightConfig:
    """What is checked before the first step (harness/preflight.py): `skip` names checks, `enabled` switches off all.

    `max_truncated_percent`: more rows than this cut to the length limit, in any split, are an error.
    """

    enabled: bool
    skip: list[str]
    max_truncated_percent: float

    def __post_init__(self) -> None:
        for name in self.skip:
            one_of("preflight.skip", name, CHECKS)


@dataclass
class WandbConfig:
    """Where a run is mirrored (harness/mirror.py). Outside of a run's identity."""

    mode: str
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    trackers: list[str]

    def __post_init__(self) -> None:
        one_of("wandb.mode", self.mode, ("auto", "online", "offline", "disabled"))
        for name in self.trackers:
            one_of("wandb.trackers", name, TRACKERS)


@dataclass
class ResultsConfig:
    """Where records go, whether the trained adapter is kept, how often a live run says that it is alive.

    `checkpoint_seconds`: how much of a training may be lost to a kill; null: only a signal makes it write a checkpoint.
    """

    root: str
    keep_adapter: bool
    heartbeat_seconds: float
    checkpoint_seconds: float | None

    def __post_init__(self) -> None:
        if not self.root.strip() or not self.root.isprintable():  # it stands in scripts of Slurm's jobs
            raise ConfigError(f"results.root={self.root!r} is no folder's name; give one, such as results/runs")


@dataclass
class RunConfig:
    """One run, completely. Seeds are integers and 0 counts."""

    seed: int
    device: str
    threads: int | None
    rerun: str
    pack: int
    progress: bool
    model: ModelConfig
    quantization: QuantizationConfig
    task: TaskConfig
    method: dict[str, Any]
    budget: BudgetConfig
    recipe: RecipeConfig
    data: DataConfig
    train: TrainConfig
    generation: GenerationConfig
    preflight: PreflightConfig
    results: ResultsConfig
    wandb: WandbConfig

    def __post_init__(self) -> None:
        ranges.check(self)
        ranges.patterns(self.method, self.model.sites)
        one_of("device", self.device, ("auto", "cpu", "cuda"))
        one_of("rerun", self.rerun, ("never", "stale", "always"))
        if self.task.kind == "generation" and self.model.family not in ENCODER_DECODERS:
            raise ConfigError(
                f"task {self.task.name} is text to text and model {self.model.name} is an encoder without a decoder; "
                "choose a BART or T5 backbone (model=demo_bart, model=demo_t5, ...) or another task"
            )

    def seeded(self, seed: int) -> RunConfig:
        """The same with another seed. Nothing else is checked again: a plan may have ten thousand. Raises ConfigError."""
        ranges.check(seed, "seed")
        other = copy(self)
        other.seed = seed
        return other


def field_names(schema: type) -> list[str]:
    """The keys of one group of the schema."""
    return [field.name for field in fields(schema)]
