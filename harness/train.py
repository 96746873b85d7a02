"""The training loop: any task, any method, over accelerate. A method speaks through its hooks and is never named.

    on_train_begin -> prepare -> for each phase: on_phase_begin, AdamW over what it trains; for each update:
        rates -> [loss -> backward] per micro-batch, penalty once -> clip -> on_pre_optimizer_step -> step
        -> on_optimizer_step -> zero the gradients; now and then validate
    -> the best checkpoint back, where asked for -> on_train_end

Dropout alone draws from the global generator, which `train` seeds; initialisation, order and sampling have their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Optimizer

from harness import losses, optimizer
from harness.config import TrainConfig
from harness.data import Encoded
from harness.errors import ConfigError
from harness.feed import Feed
from harness.monitor import Best, Monitor, Progress
from harness.schedule import Stage, evaluation_steps, stages, total_steps
from methods.hooks import Hooks, find

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
    """

    losses: list[float]
    curve: list[dict[str, Any]]
    steps: int
    examples: int
    tokens: int
    best: dict[str, Any] | None
    trace: dict[str, Any]
    step_seconds: float | None


def train(
    model: nn.Module,
    encoded: Encoded,
    settings: TrainConfig,
    *,
    seed: int,
    device: str,
    buckets: bool,
    validate: Callable[[], dict[str, float]] | None,
    main: str,
    progress: Progress | None = None,
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

    Raises:
        ConfigError: `select=best` without evaluations to choose from, a device that is not there, or a method whose
            schedule does not fit the number of updates.
        Diverged: a loss or a trained parameter is not finite.
    """
    if settings.select == "best" and (validate is None or settings.evaluate_every_epochs is None):
        raise ConfigError("train.select=best chooses among evaluations; set train.evaluate_every_epochs, e.g. to 1")
    accelerator = accelerator_for(device, settings.precision)
    model.to(accelerator.device).train()
    torch.manual_seed(seed)
    hooks, feed = find(model), Feed(encoded, settings, model, accelerator.device, seed, buckets)
    total = total_steps(settings, feed.steps_per_epoch)
    block = BLOCK_STEPS if accelerator.device.type == "cuda" else 1
    monitor = Monitor(encoded.ids, total, feed.steps_per_epoch, block, progress)
    loop = Loop(accelerator, model, hooks, feed, settings, losses.task_loss(encoded.kind, settings.label_smoothing))
    best = loop.run(total, monitor, validate, main)
    return Outcome(
        losses=monitor.losses,
        curve=monitor.curve,
        steps=len(monitor.losses),
        examples=feed.examples,
        tokens=feed.tokens,
        best=best,
        trace=hooks.trace(),
        step_seconds=monitor.median_step_seconds(),
    )


@dataclass
class Loop:
    """What every update needs, in one place."""

    accelerator: Accelerator
    model: nn.Module
    hooks: Hooks
    feed: Feed
    settings: TrainConfig
    task_loss: losses.TaskLoss
    trained: list[nn.Parameter] = field(default_factory=list)

    def run(
        self, total: int, monitor: Monitor, validate: Callable[[], dict[str, float]] | None, main: str
    ) -> dict[str, Any] | None:
        """All stages. Returns the best row of the curve, where there are scores."""
        settings, hooks = self.settings, self.hooks
        try:
            hooks.on_train_begin(total)
        except ValueError as error:  # a schedule longer than the run, say: the user's to mend
            raise ConfigError(f"the method does not fit a training of {total} updates: {error}") from error
        hooks.prepare(self.feed.calibration(), self.task_loss)
        best = Best(self.model, hooks, main, keep=settings.select == "best")
        evaluations = evaluation_steps(settings.evaluate_every_epochs, self.feed.steps_per_epoch, total)
        batches = self.feed.updates()
        monitor.resume_clock()
        for stage in stages(hooks.phases(), settings, total):
            adamw = self.enter(stage)
            for step in range(stage.start, stage.end):
                optimizer.set_rates(adamw, step, stage.start, stage.warmup_steps, stage.end, settings.schedule)
                rows = next(batches)
                monitor.add(rows, *self.update(rows, step, adamw))
                if validate is not None and step + 1 in evaluations:
                    monitor.fetch()
                    row = monitor.record(validate(), hooks.trace())
                    if stage.end == total:  # a method in phases is whole in its last one only
                        best.offer(row)
                    self.model.train()
                    monitor.resume_clock()
        self.leave(monitor, best)
        return best.summary(monitor.curve[-1])

    def enter(self, stage: Stage) -> Optimizer:
        """The stage's trained set, and AdamW over it. Gradients and modes that calibration left behind are undone."""
        if stage.phase is not None:
            self.hooks.on_phase_begin(stage.phase)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        self.trained = []
        return optimizer.build(self.model, self.hooks, self.settings, stage.learning_rate)

    def update(self, rows: np.ndarray, step: int, adamw: Optimizer) -> tuple[Tensor, Tensor | None]:
        """One update. Returns its task loss over the effective batch and its penalty, on the device."""
        task = torch.zeros((), device=self.accelerator.device)
        for batch, share in self.feed.micro_batches(rows):
            with self.accelerator.autocast():
                loss = self.hooks.loss(self.model, batch, self.task_loss) * share
            self.accelerator.backward(loss)
            task += loss.detach()
        penalty = self.hooks.penalty()  # of the parameters, so once an update and outside autocast
        if penalty is not None:
            self.accelerator.backward(penalty)
        if len(self.trained) != sum(len(group["params"]) for group in adamw.param_groups):  # a new stage, or a growth
            self.trained = optimizer.trained(adamw, self.model)
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.trained, self.settings.clip_norm)
        self.hooks.on_pre_optimizer_step(step, adamw)
        optimizer.align(self.trained)
        adamw.step()
        self.hooks.on_optimizer_step(step)
        adamw.zero_grad(set_to_none=True)
        return task, None if penalty is None else penalty.detach()

    def leave(self, monitor: Monitor, best: Best) -> None:
        """The last losses, a last row where none was recorded, the best checkpoint, the method's own end."""
        monitor.check(self.trained)
        if not monitor.curve or monitor.curve[-1]["step"] < len(monitor.losses):
            monitor.record({}, self.hooks.trace())
        best.restore()
        self.hooks.on_train_end()


def accelerator_for(device: str, precision: str) -> Accelerator:
    """An Accelerator on `device` (`auto`, `cpu`, `cuda`); `auto` precision is bfloat16 on a GPU, float32 elsewhere.

    bfloat16 is autocast: the weights stay as they are. Raises ConfigError where there is no GPU, or several processes.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # a singleton, and a process may make several runs
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device.startswith("cuda") and not on_gpu:
        raise ConfigError("device=cuda: torch finds no GPU here; use device=cpu")
    half = precision == "bfloat16" or (precision == "auto" and on_gpu)
    accelerator = Accelerator(cpu=not on_gpu, mixed_precision="bf16" if half else "no")
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"a run is one process; this is one of {accelerator.num_processes}. Start it without a launcher"
        )
    return accelerator
