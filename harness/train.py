"""The training loop: any task, any method, over accelerate. A method speaks through its hooks and is never named.

    on_train_begin -> prepare -> for each phase: on_phase_begin, AdamW over what it trains; for each update:
        rates -> [loss -> backward] per micro-batch, penalty once -> clip -> on_pre_optimizer_step -> step
        -> on_optimizer_step -> zero the gradients; now and then validate, now and then a checkpoint
    -> the best checkpoint back, where asked for -> on_train_end

Dropout alone draws from the global generator, which `train` seeds; initialisation, order and sampling have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Optimizer

from harness import checkpoint, losses, optimizer
from harness.checkpoint import Checkpoints
from harness.config import TrainConfig
from harness.data import Encoded
from harness.errors import ConfigError
from harness.feed import Feed
from harness.interrupt import Interrupt, Stopped
from harness.monitor import Best, Diverged, Monitor, Progress, living
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
        resumed_at: how many of the updates an earlier process had made, whose checkpoint this one went on from.
    """

    losses: list[float]
    curve: list[dict[str, Any]]
    steps: int
    examples: int
    tokens: int
    best: dict[str, Any] | None
    trace: dict[str, Any]
    step_seconds: float | None
    resumed_at: int = 0


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
    checkpoints: Checkpoints | None = None,
    interrupt: Interrupt | None = None,
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
        interrupt: a signal that it notes ends training after the update, with a checkpoint.

    Raises:
        ConfigError: `select=best` without evaluations to choose from, a device that is not there, or a method whose
            schedule does not fit the number of updates.
        Diverged: a loss, a gradient or a trained parameter is not finite.
        Stopped: a signal came.
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
    best = Best(model, hooks, main, keep=settings.select == "best")
    checkpoints = Checkpoints(None, "", None) if checkpoints is None else checkpoints
    loop = Loop(
        accelerator, model, hooks, feed, settings, losses.task_loss(encoded.kind, settings.label_smoothing),
        monitor, best, validate, checkpoints, interrupt or Interrupt(), total,
    )  # fmt: skip
    try:
        resumed = loop.run()
    except Diverged as error:
        raise error.after(checkpoints.newest) from None
    return Outcome(
        losses=monitor.losses,
        curve=monitor.curve,
        steps=len(monitor.losses),
        examples=feed.examples,
        tokens=feed.tokens,
        best=best.summary(monitor.curve[-1]),
        trace=hooks.trace(),
        step_seconds=monitor.median_step_seconds(),
        resumed_at=resumed,
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
    monitor: Monitor
    best: Best
    validate: Callable[[], dict[str, float]] | None
    checkpoints: Checkpoints
    interrupt: Interrupt
    total: int
    trained: list[nn.Parameter] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)  # names of what any stage has trained so far

    def run(self) -> int:
        """All stages, from the newest checkpoint where there is one. Returns after which update that was taken, or 0."""
        saved = self.checkpoints.load()
        resumed = 0 if saved is None else int(saved["step"])
        try:
            self.hooks.on_train_begin(self.total)
        except ValueError as error:  # a schedule longer than the run, say: the user's to mend
            raise ConfigError(f"the method does not fit a training of {self.total} updates: {error}") from error
        if saved is None:
            self.hooks.prepare(self.feed.calibration(), self.task_loss)
        batches = self.feed.updates(resumed)
        for stage in stages(self.hooks.phases(), self.settings, self.total):
            if stage.phase is not None:
                self.hooks.on_phase_begin(stage.phase)
            if stage.end < resumed:
                continue
            adamw = self.enter(stage)
            if saved is not None:
                self.resume(saved, adamw)
                saved = None
            self.advance(stage, adamw, batches, max(stage.start, resumed))
        self.leave()
        return resumed

    def advance(self, stage: Stage, adamw: Optimizer, batches: Iterator[np.ndarray], start: int) -> None:
        """The updates of a stage from `start` on, an evaluation where one is due, now and then a checkpoint."""
        self.monitor.resume_clock()
        with self.interrupt.deferred():
            self.evaluate(start, stage, adamw)
            for step in range(start, stage.end):
                optimizer.set_rates(adamw, step, stage.start, stage.warmup_steps, stage.end, self.settings.schedule)
                rows = next(batches)
                self.monitor.add(rows, *self.update(rows, step, adamw))
                self.evaluate(step + 1, stage, adamw)
                if self.interrupt.number is not None:
                    self.stop(step + 1, adamw)
                if self.checkpoints.due(last=step + 1 == self.total):
                    self.checkpoints.save(self.state(step + 1, adamw))
                    self.monitor.resume_clock()

    def evaluate(self, step: int, stage: Stage, adamw: Optimizer) -> None:
        """A row of the learning curve after `step` updates, where one is due and not there yet."""
        due = evaluation_steps(self.settings.evaluate_every_epochs, self.feed.steps_per_epoch, self.total)
        if self.validate is None or step not in due or self.monitor.recorded(step):
            return
        self.monitor.fetch()
        try:
            with self.interrupt.deferred(False):
                scores = self.validate()
        except Stopped:
            self.stop(step, adamw)
        row = self.monitor.record(scores, self.hooks.trace())
        if stage.end == self.total:  # a method in phases is whole in its last one only
            self.best.offer(row)
        self.model.train()
        self.monitor.resume_clock()

    def enter(self, stage: Stage) -> Optimizer:
        """AdamW over what the stage trains. Gradients and modes that calibration left behind are undone."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        self.trained = []
        self.touched.update(name for name, parameter in self.model.named_parameters() if parameter.requires_grad)
        return optimizer.build(self.model, self.hooks, self.settings, stage.learning_rate)

    def update(self, rows: np.ndarray, step: int, adamw: Optimizer) -> tuple[Tensor, Tensor | None, Tensor]:
        """One update. Returns its task loss over the effective batch, its penalty, its gradient's norm, on the device."""
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
        norm = optimizer.clip(self.trained, self.settings.clip_norm)
        self.hooks.on_pre_optimizer_step(step, adamw)
        optimizer.align(self.trained)
        adamw.step()
        self.hooks.on_optimizer_step(step)
        adamw.zero_grad(set_to_none=True)
        return task, None if penalty is None else penalty.detach(), norm

    def leave(self) -> None:
        """The last losses, a last row where none was recorded, the best checkpoint, the method's own end."""
        self.monitor.check(self.trained)
        if not self.monitor.recorded(len(self.monitor.losses)):
            self.monitor.record({}, self.hooks.trace())
        self.best.restore()
        self.hooks.on_train_end()

    def stop(self, step: int, adamw: Optimizer) -> NoReturn:
        """A signal asks to end here: a checkpoint first. Raises Stopped."""
        self.checkpoints.save(self.state(step, adamw))
        self.interrupt.stop(f"after update {step} of {self.total}; the same command goes on from there")

    def state(self, step: int, adamw: Optimizer) -> dict[str, Any]:
        """Everything that the updates from `step` on depend on."""
        return {
            "step": step,
            "monitor": self.monitor.state(),  # first: it raises where the losses are not finite
            "hooks": self.hooks.training_state(),
            "model": checkpoint.model_state(self.model, living(self.model, self.touched)),
            "optimizer": optimizer.state(adamw, self.model),
            "best": self.best.state(),
            "feed": self.feed.state(),
            "generators": checkpoint.generators(),
        }

    def resume(self, saved: dict[str, Any], adamw: Optimizer) -> None:
        """Become what `state` described: the method's shapes before the values, the generators last."""
        self.hooks.load_training_state(checkpoint.placed(saved["hooks"], self.accelerator.device))
        checkpoint.load_model_state(self.model, saved["model"])
        self.touched.update(saved["model"]["tensors"])
        optimizer.load_state(adamw, self.model, saved["optimizer"])
        for part in ("monitor", "best", "feed"):
            getattr(self, part).load_state(saved[part])
        checkpoint.load_generators(saved["generators"])


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
