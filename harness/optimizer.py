"""AdamW over the trained parameters, each group at the rate of its own clock."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from harness.config import TrainConfig
from harness.schedule import learning_rate
from methods.hooks import Hooks

# The names that transformers.Trainer spares from weight decay, beside everything inside a torch LayerNorm.
UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def undecayed(model: nn.Module) -> set[int]:
    """The `id` of every parameter without weight decay: biases and norms, as transformers.Trainer tells them."""
    inside = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    return inside | {id(p) for name, p in model.named_parameters() if UNDECAYED.search(name.lower())}


def parameter_groups(model: nn.Module, hooks: Hooks, settings: TrainConfig, base: float) -> list[dict[str, Any]]:
    """The trained parameters in groups: a method's own rates first, the rest at `base`, each with and without decay.

    A method's group that names its own `weight_decay` is not divided. Frozen parameters are in no group.
    """
    spared = undecayed(model)
    own = hooks.param_groups(base)
    taken = {id(p) for group in own for p in group["params"]}
    rest = {"params": [p for p in model.parameters() if id(p) not in taken], "lr": base}
    groups = []
    for group in [*own, rest]:
        trained = [p for p in group["params"] if p.requires_grad]
        if "weight_decay" in group:
            groups.append({**group, "params": trained})
            continue
        groups.append({**group, "params": [p for p in trained if id(p) not in spared]})
        groups.append({**group, "params": [p for p in trained if id(p) in spared], "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def build(model: nn.Module, hooks: Hooks, settings: TrainConfig, base: float) -> Optimizer:
    """AdamW (decoupled decay, bias-corrected) over what is trained now, in one fused kernel where the layout allows."""
    groups = parameter_groups(model, hooks, settings, base)
    if not groups:
        raise ValueError("nothing is trained: no parameter of the model requires a gradient")
    fused = all(p.is_contiguous() and p.dtype.is_floating_point for group in groups for p in group["params"])
    return AdamW(
        groups,
        lr=base,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def set_rates(
    optimizer: Optimizer, step: int, start_step: int, warmup: int, total_steps: int, schedule: str
) -> list[float]:
    """Give each group the rate of update `step`. A group without a `start_step` of its own was born at `start_step`.

    A group that a hook added is met here for the first time: its `lr` is the base rate and is kept as `initial_lr`.
    Raises ValueError where such a group does not suit the fused kernel (see `align`).
    """
    for group in optimizer.param_groups:
        if "initial_lr" not in group and group["fused"] and not all(p.is_contiguous() for p in group["params"]):
            raise ValueError("a parameter that a hook added to the optimizer is not contiguous in memory")
        base = group.setdefault("initial_lr", group["lr"])
        born = group.get("start_step", start_step)
        group["lr"] = learning_rate(base, step, born, warmup, total_steps, schedule)
    return [group["lr"] for group in optimizer.param_groups]


def trained(optimizer: Optimizer, model: nn.Module) -> list[nn.Parameter]:
    """Every parameter the optimiser moves, in the model's own order, then those that the model does not own.

    In that order a global norm sums up as in transformers.Trainer, to the bit.
    """
    moved = {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}
    owned = [moved.pop(id(parameter)) for parameter in model.parameters() if id(parameter) in moved]
    return owned + list(moved.values())


def align(parameters: list[nn.Parameter]) -> None:
    """Bring gradients into the layout of their parameters.

    torch's fused AdamW walks the raw memory of both: on a CPU (torch 2.13) a transposed gradient gives wrong updates
    without a word. Autograd keeps the layouts equal; a hook that assigns `grad` may not.
    """
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
