"""The loop: stages, updates, evaluations, checkpoints, and the end. A method speaks through its hooks, never by name.

    on_train_begin -> prepare -> for each phase: on_phase_begin, AdamW over what it trains; for each update:
        rates -> [loss -> backward] per micro-batch, penalty once -> clip -> on_pre_optimizer_step -> step
        -> on_optimizer_step -> zero the gradients (harness/update.py); now and then validate, now and then a checkpoint
    -> the best checkpoint back, where asked for -> on_train_end

A run that was interrupted enters at its checkpoint: the phases begun by then are begun again, `prepare` is not.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from torch.optim import Optimizer

from harness import checkpoint, optimizer
from harness.checkpoint import Checkpoints
from harness.config import TrainConfig
from harness.errors import ConfigError
from harness.interrupt import Stopped
from harness.monitor import Best, Monitor, living
from harness.schedule import Stage, evaluation_steps, stages
from harness.update import Update


@dataclass
class Loop:
    """What every update needs, in one place."""

    update: Update
    settings: TrainConfig
    monitor: Monitor
    best: Best
    validate: Callable[[], dict[str, float]] | None
    checkpoints: Checkpoints
    total: int
    before: dict[str, Any] = field(default_factory=dict)  # the method's trace at the start
    touched: set[str] = field(default_factory=set)  # names of what any stage has trained so far

    def __post_init__(self) -> None:
        self.model, self.hooks, self.feed = self.update.model, self.update.hooks, self.update.feed
        self.group, self.interrupt = self.update.group, self.update.group.interrupt
        self.due = evaluation_steps(self.settings.evaluate_every_epochs, self.feed.steps_per_epoch, self.total)

    def run(self) -> int:
        """All stages, from the newest checkpoint where there is one. Returns after which update that was taken, or 0."""
        saved = self.checkpoints.load(self.group)
        resumed = 0 if saved is None else int(saved["step"])
        try:
            self.hooks.on_train_begin(self.total)
        except ValueError as error:  # a schedule longer than the run, say: the user's to mend
            raise ConfigError(f"the method does not fit a training of {self.total} updates: {error}") from error
        self.before = self.hooks.trace() if saved is None else saved["before"]
        if saved is None:
            self.hooks.prepare(self.feed.calibration(), self.update.task_loss)
            self.group.share(living(self.model))
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
                if self.group.signal is not None:
                    self.stop(step + 1, adamw)
                if self.checkpoints.due(last=step + 1 == self.total):
                    self.checkpoints.save(self.state(step + 1, adamw), write=self.group.leads)
                    self.monitor.resume_clock()

    def evaluate(self, step: int, stage: Stage, adamw: Optimizer) -> None:
        """A row of the learning curve after `step` updates, where one is due and not there yet."""
        if self.validate is None or not self.group.leads or step not in self.due or self.monitor.recorded(step):
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
        self.update.trained = []
        self.touched.update(name for name, parameter in self.model.named_parameters() if parameter.requires_grad)
        return optimizer.build(self.model, self.hooks, self.settings, stage.learning_rate)

    def leave(self) -> None:
        """The last losses, a last row where none was recorded, the best checkpoint, the method's own end."""
        self.monitor.check(self.update.trained)
        if not self.monitor.recorded(len(self.monitor.losses)):
            self.monitor.record({}, self.hooks.trace())
        self.best.restore()
        self.hooks.on_train_end()

    def stop(self, step: int, adamw: Optimizer) -> NoReturn:
        """A signal asks to end here: a checkpoint first. Raises Stopped."""
        self.checkpoints.save(self.state(step, adamw), write=self.group.leads)
        where = f"after update {step} of {self.total}; the same command goes on from there"
        raise Stopped(self.group.signal or self.interrupt.number or signal.SIGTERM, where)

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
            "before": self.before,
            "generators": checkpoint.generators(),
        }

    def resume(self, saved: dict[str, Any], adamw: Optimizer) -> None:
        """Become what `state` described: the method's shapes before the values, the generators last."""
        self.hooks.load_training_state(checkpoint.placed(saved["hooks"], self.update.accelerator.device))
        checkpoint.load_model_state(self.model, saved["model"])
        self.touched.update(saved["model"]["tensors"])
        optimizer.load_state(adamw, self.model, saved["optimizer"])
        for part in ("monitor", "best", "feed"):
            getattr(self, part).load_state(saved[part])
        checkpoint.load_generators(saved["generators"])
