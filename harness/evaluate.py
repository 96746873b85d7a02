"""Scores from logits or generated text, never from `outputs.loss`; and what was predicted for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from harness import metrics
from harness.answers import UNPARSABLE, Answers
from harness.config import GenerationConfig
from harness.data import Encoded, collate, sorted_batches
from harness.mixture import Mixture, choose
from harness.schema import MEANS, METRICS
from harness.several import short
from harness.task import Task, references


@dataclass(frozen=True)
class Evaluation:
    """Scores by name (percent), and a column per name with an entry per row, in the split's order.

    Columns: `id`, `prediction`; `target` but for text to text (dataset text never enters a record); `logit_0`, ... for
    classification.
    """

    scores: dict[str, float]
    predictions: dict[str, list[Any]]


def score(model: nn.Module, encoded: Encoded | Mixture, task: Task, split: str, **how: Any) -> Evaluation:
    """Score a model on a split of a task, or of several tasks, each by itself and then together.

    Args:
        model: as of `evaluate`. encoded: the split's rows. task: gives the metric and what to compare with.
        how: further arguments of `evaluate`.
    """
    if not isinstance(encoded, Mixture):
        rows = task.splits[split]
        return evaluate(model, encoded, metric=task.metric, references=references(task, split), answers=task.answers,
                        groups=rows.groups, **how)  # fmt: skip
    found = {}
    for name, part in encoded.parts.items():
        choose(model, name)
        found[name] = score(model, part, task.parts[name], split, **how)
    return _together(found, task)


def _together(found: dict[str, Evaluation], task: Task) -> Evaluation:
    """Several tasks' evaluations as one: their scores by `rte.accuracy`, means over them, rows by `glue/rte/17`.

    `mean_tasks` takes each task's own score, `mean_metrics` all scores that are no mean of others (of a text task one).
    """
    names = short(list(task.parts))
    scores = {f"{names[name]}.{what}": value for name, one in found.items() for what, value in one.scores.items()}
    own = [one.scores[task.parts[name].score] for name, one in found.items()]
    every = [one.scores[what] for name, one in found.items() for what in shown(task.parts[name])]
    means = {"mean_tasks": float(np.mean(own)), "mean_metrics": float(np.mean(every))}
    columns: dict[str, list[Any]] = {name: [] for one in found.values() for name in _columns(one)}
    for name, one in found.items():
        table = _columns(one)
        size = len(table["id"])
        table["id"] = [f"{name}/{row}" for row in table["id"]]
        for column, values in columns.items():
            values += table.get(column, [None] * size)
    return Evaluation(scores=means | scores, predictions=columns)


def _columns(one: Evaluation) -> dict[str, list[Any]]:
    """The columns of one task, texts under `generated`: `prediction` holds numbers, whatever the tasks are."""
    table = dict(one.predictions)
    if isinstance(table["prediction"][0], str):
        table["generated"] = table.pop("prediction")
    return table


def shown(task: Task) -> tuple[str, ...]:
    """The scores of a task that tables print: all that are no mean of others; of generated texts its own."""
    if task.metric in ("rouge", "superni"):
        return (task.score,)
    return tuple(name for name in METRICS[task.metric] if name not in MEANS)


def evaluate(
    model: nn.Module,
    encoded: Encoded,
    *,
    metric: str,
    batch_size: int,
    device: str,
    precision: str = "float32",
    tokenizer: Any = None,
    generation: GenerationConfig | None = None,
    shown: bool = False,
    references: list[Any] | None = None,
    answers: Answers | None = None,
    groups: list[str] | None = None,
) -> Evaluation:
    """Score a model, already on `device`, on every row of `encoded`; its mode (training or not) is put back.

    Rows run sorted by length, so that a batch has little padding; the batch size cannot change a score beyond the
    floating-point noise of padding.

    Args:
        model: a backbone with its head, or a PeftModel of one.
        encoded: the rows.
        metric: a name that `harness.metrics.compute` knows.
        batch_size: sequences at once: rows, or the beams of a beam search.
        device: `cpu` or `cuda`.
        precision: `bfloat16` is autocast.
        tokenizer: text to text: turns generated tokens into text.
        generation: text to text: how to decode.
        shown: whether a bar says how far it is and when it will be done, where there is a terminal.
        references: what the metric compares with, where that is not the target: for text to text always.
        answers: text to text: how a generated answer is read as a class or score. One that cannot be read counts as
            wrong, and `unparsable` among the scores is their share in percent.
        groups: which rows belong together, for the metrics that ask for it.

    Raises:
        ValueError: a text-to-text task without tokenizer, generation or references.
    """
    if encoded.kind == "generation" and references is None:
        raise ValueError("a text-to-text evaluation needs tokenizer, generation and references")
    columns = predict(
        model, encoded, batch_size=batch_size, device=device, precision=precision, tokenizer=tokenizer,
        generation=generation, shown=shown,
    )  # fmt: skip
    targets: list[Any] = list(encoded.targets if references is None else references)
    more: dict[str, float] = {}
    if answers is not None:
        columns, more = _read(columns, answers)
    found = columns["prediction"]
    if metric in metrics.CHOICES:
        found = [right - wrong for right, wrong in zip(columns["logit_1"], columns["logit_0"], strict=True)]
    scores = metrics.compute(metric, found, targets, groups) | more
    stored = targets if answers is not None else encoded.targets
    known = {"id": list(encoded.ids)}
    if encoded.kind != "generation" or answers is not None:
        known["target"] = list(stored)
    return Evaluation(scores=scores, predictions=known | columns)


def predict(
    model: nn.Module,
    encoded: Encoded,
    *,
    batch_size: int,
    device: str,
    precision: str = "float32",
    tokenizer: Any = None,
    generation: GenerationConfig | None = None,
    shown: bool = False,
) -> dict[str, list[Any]]:
    """What a model says of every row, by columns (see `Evaluation`), in the rows' order; arguments as of `evaluate`.

    Raises:
        ValueError: a text-to-text task without tokenizer or generation.
    """
    step = _classes if encoded.kind == "classification" else _values
    if encoded.kind == "generation":
        if tokenizer is None or generation is None:
            raise ValueError("a text-to-text evaluation needs tokenizer, generation and references")
        step = _writer(tokenizer, generation)
        batch_size = max(1, batch_size // generation.num_beams)
    place = torch.device(device)
    with _evaluating(model), torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return _in_order(encoded, batch_size, lambda batch: step(model, batch), place, shown)


def _read(columns: dict[str, list[Any]], answers: Answers) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Generated answers as labels, beside the texts, and how many are none."""
    found = [answers.parse(text) for text in columns["prediction"]]
    lost = 100.0 * found.count(None) / len(found)
    read = [UNPARSABLE if one is None else one for one in found]
    return {"prediction": read, "generated": columns["prediction"]}, {"unparsable": lost}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is put back, also of those frozen in evaluation.

    `no_grad`, not `inference_mode`: a table that a model caches here (relative positions of a new length, say) may be
    used by the next training step, and autograd refuses inference tensors.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _in_order(
    encoded: Encoded,
    batch_size: int,
    predict: Callable[[dict[str, Tensor]], dict[str, list[Any]]],
    device: torch.device,
    shown: bool,
) -> dict[str, list[Any]]:
    """Predict in batches of like length; the columns come back in the rows' own order."""
    batches = sorted_batches(encoded.lengths, batch_size)
    columns: dict[str, list[Any]] = {}
    for rows in tqdm(batches, desc="evaluation", unit="batch", leave=False, disable=None if shown else True):
        batch = {name: tensor.to(device) for name, tensor in collate(encoded, rows).items() if name != "labels"}
        for name, values in predict(batch).items():
            columns.setdefault(name, []).extend(values)
    order = np.argsort(np.concatenate(batches), kind="stable")
    return {name: [values[place] for place in order] for name, values in columns.items()}


def _classes(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, list[Any]]:
    """The class of the largest logit (the first of equal ones), and the logits."""
    logits = model(**batch).logits.float().cpu()
    columns: dict[str, list[Any]] = {"prediction": logits.argmax(dim=-1).tolist()}
    return columns | {f"logit_{index}": column.tolist() for index, column in enumerate(logits.unbind(dim=-1))}


def _values(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, list[Any]]:
    """The score of a regression: the only logit."""
    return {"prediction": model(**batch).logits[:, 0].float().tolist()}


def _writer(tokenizer: Any, generation: GenerationConfig) -> Callable[..., dict[str, list[Any]]]:
    """Beam or greedy decoding, never sampling; what is not said here is the backbone's own generation configuration."""
    maybe = ("min_new_tokens", "length_penalty", "no_repeat_ngram_size")
    said = {name: value for name in maybe if (value := getattr(generation, name)) is not None}

    def write(model: Any, batch: dict[str, Tensor]) -> dict[str, list[Any]]:
        tokens = model.generate(
            **batch,
            do_sample=False,
            num_beams=generation.num_beams,
            max_new_tokens=generation.max_new_tokens,
            **said,
        )
        return {"prediction": [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]}

    return write
