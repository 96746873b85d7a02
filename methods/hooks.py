"""What a method may do during training beside its forward pass: optional hooks, and their exact places.

A loop that honours the hooks makes these calls, in this order (`loss` and the hooks below it once an optimiser step;
with gradient accumulation `loss` and `penalty` once a micro-batch):

    hooks.prepare(batches, task_loss)                       calibration; no optimiser exists yet
    hooks.on_train_begin(total_steps)
    for phase in hooks.phases() or [one implicit phase]:
        hooks.on_phase_begin(phase)                         sets requires_grad; then the loop builds the optimiser from
        ...                                                 optimizer_groups(model, lr, weight_decay)
        hooks.set_task(task_id)                             only where batches name their task
        loss = hooks.loss(model, batch, task_loss) + (hooks.penalty() or 0);  backward;  clip
        hooks.on_pre_optimizer_step(step, optimizer)        gradients clipped, not yet applied
        optimizer.step()
        hooks.on_optimizer_step(step)                       applied, not yet zeroed
        optimizer.zero_grad();  schedule.step()
    hooks.on_train_end()

`step` counts optimiser steps from 0 over the whole training, phases included. The place is part of the method: AdaLoRA
prunes after the step, IncreLoRA grows before it. Between steps a loop may ask for `training_state()` and give it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState, TrainingArguments

TaskLoss = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) -> scalar


@dataclass(frozen=True)
class Phase:
    """One stage of training with its own set of trained parameters."""

    name: str
    fraction: float  # of all optimiser steps; the fractions of a method's phases sum to 1
    learning_rate: float | None = None  # its own base rate; None: the run's


class Hooks:
    """Every hook, doing nothing. A tuner inherits from it and overrides what its method needs."""

    def phases(self) -> list[Phase]:
        """The stages of training in order; an empty list means one stage with everything."""
        return []

    def prepare(self, batches: Iterable[dict[str, Tensor]], task_loss: TaskLoss) -> None:
        """Calibrate on training batches (Fisher masks, head importance) before the optimiser is built."""

    def on_train_begin(self, total_steps: int) -> None:
        """Training starts, of this many optimiser steps. Raises ValueError where the schedule does not fit."""

    def will_move(self, total_steps: int) -> bool | None:
        """Whether a training of this many steps will change what the adapter consists of (its ranks, say).

        None: nothing is meant to change. Asked after `on_train_begin`; False is a schedule that comes to nothing.
        """
        return None

    def on_phase_begin(self, phase: Phase) -> None:
        """Set `requires_grad` for this phase; the loop then rebuilds the optimiser."""

    def set_task(self, task_id: Any) -> None:
        """The coming batches belong to this task."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], task_loss: TaskLoss) -> Tensor:
        """The objective of one micro-batch, a scalar; `batch` holds the model's inputs and `labels`.

        The default is `task_loss(logits, labels)`. Override it where one forward is not the objective.
        """
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return task_loss(model(**inputs).logits, batch["labels"])

    def penalty(self) -> Tensor | None:
        """A scalar added to the training loss, never to an evaluation loss."""
        return None

    def param_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Groups for the parameters with their own rate: `params`, `lr`, optionally `weight_decay`.

        Parameters not named here fall into the loop's default groups.
        """
        return []

    def on_pre_optimizer_step(self, step: int, optimizer: Optimizer) -> None:
        """Gradients are clipped and not yet applied.

        A method that grows may call `optimizer.add_param_group({"params": ..., "lr": base, "start_step": step + 1})`.
        """

    def on_optimizer_step(self, step: int) -> None:
        """The update is applied and the gradients are not yet zeroed."""

    def on_train_end(self) -> None:
        """Training is over: collapse what only training needs."""

    def planned_params(self) -> tuple[int, int] | None:
        """What will be left after training where that is not what is built: at uniform allocation, and at most."""
        return None

    def adapter_params(self) -> int | None:
        """Parameters of the adapter, those included that the last phase froze; None: what requires a gradient."""
        return None

    def active_params(self) -> int | None:
        """How many of the allocated parameters survive (pruning, masks); None means all."""
        return None

    def trace(self) -> dict[str, Any]:
        """JSON-able facts to record with each evaluation, such as a rank pattern."""
        return {}

    def training_state(self) -> dict[str, Any]:
        """What training needs beside parameters and buffers to go on as if it had never stopped, between two steps:

        averages, ranks, counters, what `prepare` found; tensors and JSON values in nested dictionaries and lists.
        """
        return {}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Become what `state` describes, shapes above all: parameters and buffers are then filled in by their names.

        On this very model (back to the best checkpoint), or on one built anew (a run that was killed), for which
        `on_train_begin` was called, and `on_phase_begin` for every phase begun so far, but not `prepare`.
        """


# Hooks for peft's own tuners that need some: class of the tuner -> what makes them from a tuner.
DRIVERS: dict[type, Callable[[Any], Hooks]] = {}


def find(model: nn.Module) -> Hooks:
    """The hooks of a model: its tuner's where the tuner is one of ours or has a driver, else hooks that do nothing."""
    inside = getattr(model, "module", None)
    if not hasattr(model, "base_model") and isinstance(inside, nn.Module):
        return find(inside)  # DistributedDataParallel and its like
    tuner = getattr(model, "base_model", None)
    driver = DRIVERS.get(type(tuner), lambda _: Hooks())
    return tuner if isinstance(tuner, Hooks) else driver(tuner)


def optimizer_groups(model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the method's own first, then the other trained ones with and without decay.

    Biases and norm weights (every parameter of one dimension) are not decayed, unless they are in a group of the
    method's own; such a group is decayed as a whole unless it says otherwise. Frozen parameters are left out.
    """
    groups = [{"weight_decay": weight_decay} | group for group in find(model).param_groups(learning_rate)]
    taken = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    for matrices, decay in ((True, weight_decay), (False, 0.0)):
        some = [parameter for parameter in rest if (parameter.dim() > 1) == matrices]
        groups.append({"params": some, "lr": learning_rate, "weight_decay": decay})
    return [group for group in groups if group["params"]]


class HooksCallback(TrainerCallback):
    """The same hooks from `transformers.Trainer`: `Trainer(..., callbacks=[HooksCallback()])`.

    Trainer takes its loss from the model's outputs; a tuner of ours adds its penalty there while training (see
    `methods.tuner.Tuner.forward`), so do not pass `compute_loss_func` to a method with a penalty. What Trainer has no
    place for is refused rather than skipped. `prepare` is called by the user before the Trainer is built, and rates of
    the method's own need `Trainer(optimizers=(AdamW(optimizer_groups(model, lr, weight_decay)), None))`.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Refuse what Trainer cannot do, then announce the number of steps."""
        hooks = find(kwargs["model"])
        if reason := _refused(hooks, args, kwargs["optimizer"]):
            raise ValueError(f"{type(hooks).__name__} {reason}")
        hooks.on_train_begin(state.max_steps)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Clipped, not applied. `state.global_step` counts the steps done, hence is this step's index from 0."""
        optimizer, scheduler = kwargs["optimizer"], kwargs.get("lr_scheduler")
        known = len(optimizer.param_groups)
        find(kwargs["model"]).on_pre_optimizer_step(state.global_step, optimizer)
        if len(optimizer.param_groups) > known and args.world_size > 1:
            raise ValueError("DistributedDataParallel does not sum what a method adds; use `python -m harness`")
        if scheduler is not None:
            _schedule(optimizer.param_groups[known:], getattr(scheduler, "scheduler", scheduler), state.max_steps)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Applied, not zeroed."""
        find(kwargs["model"]).on_optimizer_step(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        find(kwargs["model"]).on_train_end()


def _refused(hooks: Hooks, args: TrainingArguments, optimizer: Optimizer) -> str | None:
    """Why transformers.Trainer would train this method wrongly, or None."""
    if len(hooks.phases()) > 1 or type(hooks).loss is not Hooks.loss:
        reason = "trains in phases or computes its own loss, which transformers.Trainer has no hook for"
        return f"{reason}; use `python -m harness`, or a loop that follows methods/hooks.py"
    if type(hooks).penalty is not Hooks.penalty and (
        args.label_smoothing_factor or args.gradient_accumulation_steps > 1
    ):
        return (
            "adds a penalty to the model's loss, which transformers.Trainer replaces under label smoothing and counts "
            "once a micro-batch under accumulation; set label_smoothing_factor=0 and gradient_accumulation_steps=1"
        )
    rates = {id(p): group["lr"] for group in hooks.param_groups(args.learning_rate) for p in group["params"]}
    found = {id(p): g.get("initial_lr", g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    if any(found.get(key) != rate for key, rate in rates.items()):
        return (
            "has learning rates of its own; build the optimiser with methods.hooks.optimizer_groups and pass it as "
            "Trainer(optimizers=(optimizer, None))"
        )
    return None


def _schedule(groups: list[dict[str, Any]], scheduler: Any, total_steps: int) -> None:
    """Give new parameter groups their place in Trainer's schedule: it counts its groups once, when it is made.

    A `start_step` begins a clock of the group's own that ends with the training; `schedule="constant"` keeps the rate.
    """
    for group in groups:
        if not isinstance(scheduler, LambdaLR):
            raise ValueError(
                f"the method adds parameter groups while it trains, and {type(scheduler).__name__} cannot take them; "
                "use an lr_scheduler_type that makes a LambdaLR, such as linear"
            )
        rate: Callable[[int], float] = scheduler.lr_lambdas[0]
        start = group.get("start_step", 0)
        if isinstance(rate, partial) and "num_training_steps" in rate.keywords:
            rate = partial(rate.func, **{**rate.keywords, "num_training_steps": total_steps - start})
        if group.get("schedule") == "constant":
            rate = partial(_constant)
        group.setdefault("initial_lr", group["lr"])
        scheduler.base_lrs.append(group["initial_lr"])
        scheduler.lr_lambdas.append(partial(_later, rate, start))


def _later(rate: Callable[[int], float], start: int, step: int) -> float:
    """A schedule on a clock that starts at step `start`."""
    return rate(step - start)


def _constant(step: int) -> float:
    return 1.0
