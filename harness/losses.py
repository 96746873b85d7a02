"""The task's objective from logits, and by how much a micro-batch weighs in its effective batch.

`outputs.loss` is never read: some tuners add their regulariser to it, also during evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional

from harness.data import IGNORED

TaskLoss = Callable[[Tensor, Tensor], Tensor]


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of logits [batch, classes] against class indices [batch]."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def regression_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of logits [batch, 1] against scores [batch]."""
    return functional.mse_loss(logits[:, 0].float(), labels.float())


def token_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy over target tokens: logits [batch, length, vocabulary], labels [batch, length].

    A batch without a single target token costs 0, not NaN.
    """
    flat = labels.flatten()
    total = functional.cross_entropy(
        logits.float().flatten(0, 1), flat, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (flat != IGNORED).sum().clamp(min=1)


def task_loss(kind: str, label_smoothing: float = 0.0) -> TaskLoss:
    """The loss `(logits, labels) -> scalar` of a task kind: the mean over examples, or over target tokens."""
    losses: dict[str, TaskLoss] = {
        "classification": partial(classification_loss, label_smoothing=label_smoothing),
        "regression": regression_loss,
        "generation": partial(token_loss, label_smoothing=label_smoothing),
    }
    # Of several tasks with a head each, the labels say which is at hand: a score is no integer.
    kinds = {True: losses["regression"], False: losses["classification"]}
    losses["multi"] = lambda logits, labels: kinds[labels.is_floating_point()](logits, labels)
    return losses[kind]


def weight(kind: str, targets: Sequence[Any]) -> int:
    """What the mean of `task_loss` is taken over: examples, or target tokens."""
    return sum(map(len, targets)) if kind == "generation" else len(targets)
