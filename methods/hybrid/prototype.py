"""What PROPETL's three forms share: one prototype, masks that carve a layer's module out of it, and their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from methods import sites
from methods.backbone import CONTAINER
from methods.hybrid.masks import COMBINATIONS, LayerMasks, Scores, Tasks, pack, scores_of, top_mask, unpack
from methods.tuner import Tuner, TunerConfig

SCORES, BITS = ".scores", ".bits"  # how a mask's key ends in the model, and in a file
FIRST_STEP_RATE = 3.0  # of the scores in the T5 code's first step, as a multiple of the base rate


@dataclass
class PrototypeConfig(TunerConfig):
    """Masks: how much they keep, of what they are made, how fast they learn."""

    keep: float = field(default=0.3, metadata={"help": "Share of the prototype's entries that a mask keeps."})
    tasks: list[str] | None = field(
        default=None, metadata={"help": "Names of the tasks, each with masks of its own; null: one task, layer masks."}
    )
    combine: str = field(default="or", metadata={"help": "Layer and task mask as one: or | and | add."})
    mask_rate: float = field(default=10.0, metadata={"help": "Learning rate of the scores, in units of the run's."})
    borrow_last_task: bool = field(
        default=False,
        metadata={"help": "As the released code: the first encoder layer's masks are those of the last task."},
    )
    masks_first: bool = field(
        default=False,
        metadata={"help": "As the T5 code: the first step moves the scores alone; the schedule runs late by one."},
    )

    idle_tasks_move: bool = field(
        default=False,
        metadata={"help": "As the T5 code: masks of tasks that are not in the batch go on by their momentum."},
    )

    def check(self) -> None:
        """Raises ValueError for values that mean nothing."""
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep} is no share of entries to keep; it is above 0 and at most 1")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine={self.combine} is unknown; known are {', '.join(COMBINATIONS)}")
        if self.tasks is not None and len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks={list(self.tasks)} names a task twice")
        if self.borrow_last_task and not self.tasks:
            raise ValueError("borrow_last_task=True needs tasks: without any there are no masks to borrow")


class Sharing:
    """Makes the masks of one adapter: a layer's, and the tasks' that all layers share.

    Args:
        config: the method's.
        fan_ins: name of a matrix -> fan-in of its scores, where that is not the size of a row.
    """

    def __init__(self, config: PrototypeConfig, fan_ins: Mapping[str, int] | None = None) -> None:
        config.check()
        self.config, self.fan_ins = config, fan_ins or {}
        self.tasks: Tasks | None = None

    def _scores(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.ModuleDict:
        keep = self.config.keep
        return nn.ModuleDict({name: Scores(shape, keep, self.fan_ins.get(name)) for name, shape in shapes.items()})

    def with_tasks(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, nn.Module]:
        """The tasks' masks of every matrix of one layer, under the name that the adapter holds them by."""
        if not self.config.tasks:
            return {}
        self.tasks = Tasks({task: self._scores(shapes) for task in self.config.tasks})
        return {"tasks": self.tasks}

    def layer(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> LayerMasks:
        """The masks of the layer that `path` lies in."""
        borrows = self.config.borrow_last_task and sites.layer(path) == ("encoder", 0)
        own = None if borrows else self._scores(shapes)
        last = self.config.tasks[-1] if borrows and self.config.tasks else None
        return LayerMasks(own, self.tasks, self.config.combine, last)


def prototype_name(path: str, shared: bool) -> str:
    """The name of the prototype that a path's layer is carved from: one for all, or one for each stack."""
    return "prototype" if shared else f"prototype_{sites.layer(path)[0]}"


class PrototypeTuner(Tuner):
    """The hooks and the file format of a prototype with masks."""

    _groups: list[dict[str, Any]] = []  # noqa: RUF012 - replaced, never changed
    _scheduled: list[float] = []  # noqa: RUF012

    def param_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """The scores, at `mask_rate` times the run's rate, decayed like everything else."""
        config: Any = self.peft_config[self.active_adapters[0]]
        scores = [parameter for _, parameter in self._named(scores=True)]
        return [{"params": scores, "lr": config.mask_rate * base_lr}]

    def on_pre_optimizer_step(self, step: int, optimizer: Optimizer) -> None:
        """What `masks_first` and `idle_tasks_move` ask for."""
        config: Any = self.peft_config[self.active_adapters[0]]
        if config.idle_tasks_move:
            for _, parameter in self._named(scores=True):
                if parameter.grad is None and parameter in optimizer.state:
                    parameter.grad = torch.zeros_like(parameter)  # AdamW leaves out what has no gradient
        if config.masks_first:
            self._delay(step, optimizer, config.mask_rate)

    def _delay(self, step: int, optimizer: Optimizer, mask_rate: float) -> None:
        """Step 0 moves the scores alone, step 1 nothing, and any other has the rates of the step before."""
        groups = optimizer.param_groups
        rates = [0.0] * len(groups) if step < 2 else self._scheduled
        self._groups, self._scheduled = groups, [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        if step == 0:
            scores = {id(parameter) for _, parameter in self._named(scores=True)}
            for group, scheduled in zip(groups, self._scheduled, strict=True):
                if any(id(parameter) in scores for parameter in group["params"]):
                    group["lr"] = FIRST_STEP_RATE * group.get("initial_lr", scheduled) / mask_rate

    def on_optimizer_step(self, step: int) -> None:
        """Give the groups the rates back that the loop had set."""
        for group, rate in zip(self._groups, self._scheduled, strict=True):
            group["lr"] = rate
        self._groups = []

    def training_state(self) -> dict[str, Any]:
        """The rates of the step before, which `masks_first` goes by."""
        return {"scheduled": self._scheduled}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The same, back."""
        self._scheduled = state["scheduled"]

    def set_task(self, task_id: str) -> None:
        """Use the masks of this task from now on. Raises ValueError for a task that the adapter does not know."""
        if "tasks" in self.adapter():
            tasks: Any = self.adapter()["tasks"]
            tasks.index(task_id)
            tasks.active = task_id

    def stored_bits(self) -> int:
        """What the adapter needs at inference: 32 bits a parameter of the prototype, one bit an entry of a mask."""
        bits = sum(parameter.numel() for _, parameter in self._named(scores=True))
        return 32 * self.prototype_params() + bits

    def prototype_params(self) -> int:
        """Parameters of the prototype, biases included, as they are stored."""
        return sum(parameter.numel() for _, parameter in self._named(scores=False))

    def trace(self) -> dict[str, Any]:
        """What the paper counts: bits that are stored, and parameters where a mask's entry counts as one."""
        bits = self.stored_bits()
        return {"stored_bits": bits, "stored_params": bits - 31 * self.prototype_params()}

    def _named(self, scores: bool) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.adapter().named_parameters():
            if name.endswith(SCORES) == scores:
                yield name, parameter

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """What is saved: of scores only the masks, eight entries a byte."""
        found = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        method: Any = config
        masks = {name: tensor for name, tensor in found.items() if name.endswith(SCORES)}
        packed = {
            name.removesuffix(SCORES) + BITS: pack(top_mask(tensor, method.keep)) for name, tensor in masks.items()
        }
        return {name: tensor for name, tensor in found.items() if name not in masks} | packed

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Masks -> scores that give them again. Raises ValueError where a mask does not fit."""
        mark = f"{CONTAINER}.{cls.prefix}."
        shapes = {
            cls._remove_adapter_name_from_key(key, adapter_name).partition(mark)[2]: tensor.shape
            for key, tensor in model.state_dict().items()
            if mark in key and key.endswith(SCORES)
        }
        loaded = {}
        for key, tensor in state_dict.items():
            name = key.removesuffix(BITS) + SCORES if key.endswith(BITS) and mark in key else key
            shape = shapes.get(name.partition(mark)[2])
            loaded[name] = scores_of(unpack(tensor, shape)) if name != key and shape is not None else tensor
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, loaded)
