"""The schema of backbones and tasks (the rest of it: harness/config.py), and the words that they may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.errors import ConfigError, unknown

KINDS = ("classification", "regression", "generation", "multi")
FAMILIES = ("deberta", "roberta", "bert", "bart", "t5")
ATTENTIONS = ("transformers", "lean", "fused")
SPLITS = ("train", "validation", "test")
# The scores that each metric of harness/metrics.py yields; here, since a wrong name must stop before heavy imports.
METRICS = {
    "accuracy": ("accuracy",),
    "accuracy_f1": ("accuracy", "f1", "accuracy_f1"),
    "matthews": ("matthews",),
    "pearson_spearman": ("pearson", "spearman", "pearson_spearman"),
    "accuracy_macro_f1": ("accuracy", "macro_f1", "accuracy_macro_f1"),
    "choice": ("accuracy",),
    "multirc": ("f1a", "em", "f1a_em"),
    "record": ("f1", "em", "f1_em"),
    "record_text": ("f1", "em", "f1_em"),
    "rouge": ("rouge1", "rouge2", "rougeL", "rougeLsum_newline", "rougeLsum_punctuation"),
    "superni": ("rougeL", "exact_match"),
    "multi": ("mean_tasks", "mean_metrics"),  # and every task's own scores: `rte.accuracy` (harness/mixture.py)
}
MEANS = ("accuracy_f1", "pearson_spearman", "accuracy_macro_f1", "f1a_em", "f1_em")  # of two other scores
SHAPES = ("plain", "copa", "multirc", "record", "wic", "wsc", "superni")
# What preflight.skip may name, in alphabetical order (harness/checks.py, harness/fits.py).
CHECKS = (
    "dtypes", "gradients", "head", "labels", "padding", "parameters", "penalty", "positions", "saved", "schedule", "seed", "ties",
    "tokenizer", "truncation",
)  # fmt: skip
SCHEMES = ("official", "propetl_t5", "propetl_roberta", "every_tenth")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError, with the nearest right value, for a value that is not allowed."""
    if value not in allowed:
        raise ConfigError(f"{key}: {unknown('value', str(value), allowed)}")


@dataclass
class ModelConfig:
    """A backbone: where its weights are, what its parts are called, how it is loaded.

    `path` wins over `hub_id`; `embedded:NAME` is a directory that travels with the package. `sites` maps a site's name
    (`linears`, `query_value`, ...) to the regular expression of its module names, `head_modules` names the modules of
    the task layer, which are trained and saved beside every adapter. `config` overrides entries of the model's own
    configuration (`cls_dropout: 0.2`).

    `shape` is the architecture in the words of its configuration class (`model_type`, `hidden_size`, ...): with
    `init=random` and no `path` the backbone is built from it, without the hub and without a directory; its words come
    from the tokenizer in the directory `tokenizer`, which is then another one than the original's.

    `sha256` is of the weights' file that the hub has at `revision`; null where nobody has looked. A file of another hash
    is refused. (A record names the weights by content in any case: other weights are another run.)

    `attention` is `transformers` (its own choice), or for DeBERTa `lean` (equal to rounding, faster) and `fused`
    (likewise, by Triton kernels on a GPU): see `methods/disentangled.py`.
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
    shape: dict[str, Any]
    tokenizer: str | None
    attention: str
    sha256: str | None = None  # records of before it are still read

    def __post_init__(self) -> None:
        one_of("model.family", self.family, FAMILIES)
        lean = self.family == "deberta"
        one_of("model.attention" if lean else f"model.attention (family {self.family})", self.attention,
               ATTENTIONS if lean else ATTENTIONS[:1])  # fmt: skip
        one_of("model.init", self.init, ("pretrained", "random"))
        one_of("model.dtype", self.dtype, ("float32", "bfloat16"))


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

    `text`, `text_pair` and `target` are column names of `files`, which lie in `folder` of a root directory (or of
    `suite` in it); `a|b` among the files is the first of the two that is there; `columns` gives names to files without
    a header. A `shape` other than `plain` reads whole objects instead of columns (harness/shapes.py). `labels` stand
    in the hub's order (RTE, QNLI: 0 = entailment); a file says a label by its name or by its index in `labels`.
    `target_range` bounds a regression's scores: [lowest, highest].

    `prompt` makes the task text to text (with `kind: generation`): the source, with fields in braces. The target is
    the entry of `answers` at the label's index, or the score rounded to a multiple of `answer_step`.

    `splits` names an arrangement of the official splits (harness/splits.py); any but `official` reports on `test`.
    `also_reports` are splits evaluated at the end beside the one that reports. `rows` are the official row counts of
    each split; another count is remarked on in the record. `skip_broken` leaves out rows without all their columns or
    with an empty text, and counts them; otherwise such a row is an error. `hidden` are files without labels
    (`hidden_columns`: where their text and pair have other names), and `submission` the files that the benchmark's server
    wants of each, with `submitted` as the words for the labels.

    `max_length_tokens`, `max_target_tokens`, `num_beams` and `validation_rows` are what `data` and `generation` take as
    defaults.

    `tasks` makes one run of several tasks, by their names; `parts` are their configurations, filled in when the whole
    is composed. Batches are of one task each, drawn with `temperature` (harness/mixture.py).
    """

    name: str
    kind: str
    shape: str
    text: str
    text_pair: str | None
    target: str
    labels: list[str]
    target_range: list[float] | None
    prompt: str | None
    answers: list[str]
    answer_step: float | None
    metric: str
    score: str
    splits: str
    selects: str
    reports: str
    also_reports: list[str]
    suite: str
    folder: str
    files: dict[str, str]
    columns: list[str]
    skip_broken: bool
    hidden: dict[str, str]
    hidden_columns: dict[str, list[str]]
    submission: dict[str, str]
    submitted: list[str]
    hub: HubData
    rows: dict[str, int]
    root: str | None
    max_length_tokens: int
    max_target_tokens: int
    num_beams: int
    validation_rows: int | None
    tasks: list[str]
    temperature: float
    parts: dict[str, Any]  # name -> TaskConfig

    def __post_init__(self) -> None:
        self.parts = {name: _task(part) for name, part in self.parts.items()}
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature={self.temperature:g} must be above 0; 1 draws in proportion to rows")
        one_of("task.kind", self.kind, KINDS)
        one_of("task.shape", self.shape, SHAPES)
        one_of("task.splits", self.splits, SCHEMES)
        if self.splits != "official":
            self.reports = "test"
        one_of("task.selects", self.selects, SPLITS)
        one_of("task.reports", self.reports, SPLITS)
        one_of("task.metric", self.metric, tuple(METRICS))
        one_of("task.score", self.score, METRICS[self.metric])
        if self.prompt is not None and self.answers and len(self.answers) != len(self.labels):
            raise ConfigError(f"task.answers has {len(self.answers)} entries for {len(self.labels)} labels")

    @property
    def nature(self) -> str:
        """What the data's targets are, whatever the form: `class`, `score` or `text`."""
        scored = self.kind == "regression" or self.target_range is not None
        return "class" if self.labels else "score" if scored else "text"


def _task(part: Any) -> TaskConfig:
    """A part as it is stored, or as it was composed."""
    return part if isinstance(part, TaskConfig) else TaskConfig(**part | {"hub": HubData(**part["hub"])})
