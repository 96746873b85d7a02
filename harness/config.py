"""The configuration's schema: one dataclass a group. A wrong key, type or value stops here, before any heavy import.

Defaults live in `conf/*.yaml`, once; fields here have none. `cfg` dies in `run.py`: everything below it takes plain
typed arguments. Durations and sizes carry their unit in the name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from harness.errors import ConfigError, unknown

KINDS = ("classification", "regression", "generation")
FAMILIES = ("deberta", "roberta", "bert", "bart", "t5")
SPLITS = ("train", "validation", "test")
# The scores that each metric of harness/metrics.py yields; here, since a wrong name must stop before heavy imports.
METRICS = {
    "accuracy": ("accuracy",),
    "accuracy_f1": ("accuracy", "f1", "accuracy_f1"),
    "matthews": ("matthews",),
    "pearson_spearman": ("pearson", "spearman", "pearson_spearman"),
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum_newline"),
}
ENCODER_DECODERS = ("bart", "t5")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}: {unknown('value', str(value), allowed)}")


def _at_least(key: str, value: float | None, bound: float) -> None:
    if value is not None and not value >= bound:
        raise ConfigError(f"{key}={value} is below {bound:g}, the smallest value allowed")


@dataclass
class ModelConfig:
    """A backbone: where its weights are, what its parts are called, how it is loaded.

    `path` wins over `hub_id`; `embedded:NAME` is a directory that travels with the package. `sites` maps a site's name
    (`linears`, `query_value`, ...) to the regular expression of its module names, `head_modules` names the modules of
    the task layer, which are trained and saved beside every adapter. `config` overrides entries of the model's own
    configuration (`cls_dropout: 0.2`).
    """

    name: str
    family: str
    hub_id: str | None
    revision: str | None
    path: str | None
    init: str
    dtype: str
    head_modules: list[str]
    sites: dict[str, str]
    config: dict[str, Any]

    def __post_init__(self) -> None:
        _one_of("model.family", self.family, FAMILIES)
        _one_of("model.init", self.init, ("pretrained", "random"))
        _one_of("model.dtype", self.dtype, ("float32", "bfloat16"))


@dataclass
class HubData:
    """Where a task lives on the hub: dataset id, configuration, pinned revision, split names (ours -> the hub's).

    `text`, `text_pair` and `target` are the hub's column names, which may differ from the file's.
    """

    id: str | None
    config: str | None
    revision: str | None
    splits: dict[str, str]
    text: str
    text_pair: str | None
    target: str


@dataclass
class TaskConfig:
    """A task: columns, labels, metric, which split selects a checkpoint and which one reports the score.

    `text`, `text_pair` and `target` are column names of `files`, which lie in `folder` of a root directory; `columns`
    gives names to files without a header. `labels` stand in the hub's order (RTE, QNLI: 0 = entailment); a file says
    a label by its name or by its index in `labels`. `target_range` bounds a regression's scores: [lowest, highest].
    `rows` are the official row counts of each split; another count is remarked on in the record. `skip_broken` leaves
    out rows without all their columns or with an empty text, and counts them; otherwise such a row is an error.
    """

    name: str
    kind: str
    text: str
    text_pair: str | None
    target: str
    labels: list[str]
    target_range: list[float] | None
    metric: str
    score: str
    selects: str
    reports: str
    folder: str
    files: dict[str, str]
    columns: list[str]
    skip_broken: bool
    hub: HubData
    rows: dict[str, int]
    root: str | None

    def __post_init__(self) -> None:
        _one_of("task.kind", self.kind, KINDS)
        _one_of("task.selects", self.selects, SPLITS)
        _one_of("task.reports", self.reports, SPLITS)
        _one_of("task.metric", self.metric, tuple(METRICS))
        _one_of("task.score", self.score, METRICS[self.metric])


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

    def __post_init__(self) -> None:
        for name in ("max_length_tokens", "max_target_tokens", "eval_batch_size", "max_train_rows", "max_eval_rows"):
            _at_least(f"data.{name}", getattr(self, name), 1)


@dataclass
class TrainConfig:
    """The optimisation: AdamW, linear warm-up and decay, clipping, accumulation, checkpoint selection.

    `max_steps` wins over `epochs`; of `warmup_steps` and `warmup_ratio` the first that is set wins.
    """

    learning_rate: float
    epochs: float
    max_steps: int | None
    batch_size: int
    accumulation_steps: int
    warmup_steps: int | None
    warmup_ratio: float
    schedule: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    clip_norm: float | None
    label_smoothing: float
    precision: str
    select: str
    evaluate_every_epochs: float | None

    def __post_init__(self) -> None:
        _one_of("train.schedule", self.schedule, ("linear", "constant"))
        _one_of("train.precision", self.precision, ("auto", "float32", "bfloat16"))
        _one_of("train.select", self.select, ("last", "best"))
        for name in ("batch_size", "accumulation_steps", "max_steps"):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "epochs", "weight_decay", "warmup_steps", "warmup_ratio", "clip_norm"):
            _at_least(f"train.{name}", getattr(self, name), 0)
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                f"train.batch_size={self.batch_size} cannot be split into train.accumulation_steps="
                f"{self.accumulation_steps} equal micro-batches; choose a divisor of {self.batch_size}"
            )


@dataclass
class GenerationConfig:
    """Decoding of a text-to-text task, for `generate`."""

    num_beams: int
    max_new_tokens: int
    min_new_tokens: int
    length_penalty: float
    no_repeat_ngram_size: int

    def __post_init__(self) -> None:
        _at_least("generation.num_beams", self.num_beams, 1)
        _at_least("generation.max_new_tokens", self.max_new_tokens, 1)


@dataclass
class BudgetConfig:
    """A parameter budget: a level of the papers, or a ceiling on the adapter's parameters (the head is not counted)."""

    name: str
    max_adapter_params: int | None


@dataclass
class RecipeConfig:
    """Which hyper-parameter rows were applied, and from where. Descriptive: not part of a run's identity."""

    name: str
    note: str


@dataclass
class ResultsConfig:
    """Where records go, whether the trained adapter is kept, how often a live run says that it is alive."""

    root: str
    keep_adapter: bool
    heartbeat_seconds: float


@dataclass
class RunConfig:
    """One run, completely. Seeds are integers and 0 counts."""

    seed: int
    device: str
    threads: int | None
    rerun: str
    progress: bool
    model: ModelConfig
    task: TaskConfig
    method: dict[str, Any]
    budget: BudgetConfig
    recipe: RecipeConfig
    data: DataConfig
    train: TrainConfig
    generation: GenerationConfig
    results: ResultsConfig

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        _at_least("threads", self.threads, 1)
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        _one_of("rerun", self.rerun, ("never", "stale", "always"))
        if self.task.kind == "generation" and self.model.family not in ENCODER_DECODERS:
            raise ConfigError(
                f"task {self.task.name} is text to text and model {self.model.name} is an encoder without a decoder; "
                "choose a BART or T5 backbone (model=demo_bart, model=demo_t5, ...) or another task"
            )


def field_names(schema: type) -> list[str]:
    """The keys of one group of the schema."""
    return [field.name for field in fields(schema)]
