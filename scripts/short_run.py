"""A few updates of a run on random rows, for scripts that measure: what `harness.run` does, without a task's data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from harness import budget, device, directory, model, task
from harness.config import RunConfig
from harness.data import Encoded
from harness.train import Outcome, train


def build(config: RunConfig) -> nn.Module:
    """The backbone, quantised where asked for, with its method, on the run's device."""
    where = device.resolve(config.device)
    precision = device.precision(config.train.precision, where)
    at, blank = directory.locate(config.model), task.empty(config.task)
    sized, _ = budget.solve(config.budget, config.method, config.model, at, blank)
    backbone, _ = model.load(
        config.model, at, blank, seed=config.seed, quantization=config.quantization, precision=precision
    )
    method = model.method_config(sized, config.model, blank.kind, backbone)
    return model.attach(backbone, method, seed=config.seed).to(where)


def rows(config: RunConfig, length: int, count: int) -> Encoded:
    """Random rows of one length; the label is whether the second token's number is even."""
    bits = np.random.Generator(np.random.PCG64(0))
    ids = [bits.integers(20, 100, size=length) for _ in range(count)]
    labels = [int(row[1]) % 2 for row in ids]
    return Encoded(config.task.kind, ids, None, labels, [str(row) for row in range(count)], 0, 0)


class Ticks:
    """In the place of a progress bar: calls a function after every update."""

    total: float | None = None

    def __init__(self, tick: Callable[[], object]) -> None:
        self._tick = tick

    def update(self, n: int, /) -> None:
        """An update is done."""
        self._tick()

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        """Shows nothing."""


def trained(
    config: RunConfig, net: nn.Module, length: int, steps: int, tick: Callable[[], object] | None = None
) -> Outcome:
    """`steps` updates on rows of one length."""
    settings = replace(config.train, max_steps=steps, evaluate_every_epochs=None, select="last")
    progress: Any = None if tick is None else Ticks(tick)
    return train(
        net, rows(config, length, steps * config.train.batch_size), settings, seed=config.seed, device=config.device,
        buckets=config.data.buckets, validate=None, main="", progress=progress,
    )  # fmt: skip
