"""Training: any task, any method, over accelerate. The loop itself is harness/loop.py, one update harness/update.py.

Dropout alone draws from the global generator, which `train` seeds; initialisation, order and sampling have their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from harness import execution, losses
from harness.checkpoint import Checkpoints
from harness.config import TrainConfig
from harness.data import Encoded
from harness.distributed import Group
from harness.errors import ConfigError
from harness.feed import Feed
from harness.loop import Loop
from harness.mixture import Mixture, choose
from harness.monitor import Best, Diverged, Monitor, Progress
from harness.schedule import total_steps
from harness.update import Update
from methods.hooks import find

BLOCK_STEPS = 50  # losses a GPU keeps before they are fetched: waiting at every step would idle it


@dataclass
class Outcome:
    """What a training leaves beside the model.

    Args:
        losses: the task loss of every update, without a method's penalty.
        curve: a row per evaluation: step, epoch, loss and penalty (means since the row before), scores, trace.
        steps: updates made.
        examples: training rows seen.
        tokens: source and target tokens seen, padding not counted.
        best: the best row of the curve with `last_step` and `last_<main>` beside it; None without scores.
        trace: what the method says of itself at the end (a rank pattern, say).
        step_seconds: median seconds an update, evaluations left out; None without an update.
        resumed_at: how many of the updates an earlier process had made, whose checkpoint this one went on from.
        remarks: what a reader of the scores must know of the training.
    """

    losses: list[float]
    curve: list[dict[str, Any]]
    steps: int
    examples: int
    tokens: int
    best: dict[str, Any] | None
    trace: dict[str, Any]
    step_seconds: float | None
    resumed_at: int
    remarks: list[str]


def train(
    model: nn.Module,
    encoded: Encoded | Mixture,
    settings: TrainConfig,
    *,
    seed: int,
    device: str,
    buckets: bool,
    validate: Callable[[], dict[str, float]] | None,
    main: str,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    group: Group | None = None,
) -> Outcome:
    """Train what requires a gradient, in place, on the rows of `encoded`.

    Args:
        model: a backbone with its head, or a PeftModel of one; moved to the device.
        encoded: the training rows.
        settings: the optimisation. With `evaluate_every_epochs` unset `validate` is never called: the caller evaluates.
        seed: of the order of rows and of dropout.
        device: `auto`, `cpu` or `cuda`.
        buckets: whether rows of like length are batched together.
        validate: scores on the split that selects. It may leave the model in evaluation mode.
        main: the score, greater is better, that says which checkpoint is the best.
        progress: told of every update, a tqdm bar, say.
        checkpoints: where training goes on from, and what it leaves for a later process; None: neither.
        group: the processes that make this run together; None: this one alone. A signal that its `interrupt` notes
            ends training after the update, with a checkpoint.

    Raises:
        ConfigError: `select=best` without evaluations to choose from, a device that is not there, or a method whose
            schedule does not fit the number of updates.
        Diverged: a loss, a gradient or a trained parameter is not finite.
        Stopped: a signal came.
    """
    if settings.select == "best" and (validate is None or settings.evaluate_every_epochs is None):
        raise ConfigError("train.select=best chooses among evaluations; set train.evaluate_every_epochs, e.g. to 1")
    group = group or Group()
    accelerator = accelerator_for(device, settings.precision)
    model.to(accelerator.device).train()
    if isinstance(encoded, Mixture):
        choose(model, next(iter(encoded.parts)))  # a probe of the model has to be of some task
    execution.prepare(model, settings, rows=len(encoded), tokens=int(encoded.lengths.sum()))
    group.enter(model)
    torch.manual_seed(seed)
    hooks, feed = find(model), Feed(encoded, settings, model, accelerator.device, seed, buckets, group.rank, group.size)
    total = total_steps(settings, feed.steps_per_epoch)
    block = BLOCK_STEPS if accelerator.device.type == "cuda" else 1
    monitor = Monitor(encoded.ids, total, feed.steps_per_epoch, block, progress)
    best = Best(model, hooks, main, keep=settings.select == "best")
    checkpoints = Checkpoints(None, "", None) if checkpoints is None else checkpoints
    update = Update(
        accelerator, model, hooks, feed, losses.task_loss(encoded.kind, settings.label_smoothing), settings.clip_norm,
        settings.retry_out_of_memory, seed, group, settings.cuda_graphs,
    )  # fmt: skip
    loop = Loop(update, settings, monitor, best, validate, checkpoints, total)
    try:
        resumed = loop.run()
    except Diverged as error:
        raise error.after(checkpoints.newest) from None
    execution.finish(model, settings)
    trace = hooks.trace()
    return Outcome(
        losses=monitor.losses,
        curve=monitor.curve,
        steps=len(monitor.losses),
        examples=feed.examples,
        tokens=feed.tokens,
        best=best.summary(monitor.curve[-1]),
        trace=trace,
        step_seconds=monitor.median_step_seconds(),
        resumed_at=resumed,
        remarks=feed.remarks() + monitor.remarks(loop.before, trace) + execution.remarks(settings, resumed),
    )


def accelerator_for(device: str, precision: str) -> Accelerator:
    """An Accelerator on `device` (`auto`, `cpu`, `cuda`); `auto` precision is bfloat16 on a GPU, float32 elsewhere.

    bfloat16 is autocast: the weights stay as they are. Raises ConfigError where there is no GPU.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # a singleton, and a process may make several runs
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device.startswith("cuda") and not on_gpu:
        raise ConfigError("device=cuda: torch finds no GPU here; use device=cpu")
    half = precision == "bfloat16" or (precision == "auto" and on_gpu)
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if half else "no")
