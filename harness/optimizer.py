"""AdamW over the trained parameters, each group at the rate of its own clock.

Three of them: torch's; bitsandbytes' paged one, whose state a full GPU may move to the host's memory; and the one that
transformers had of its own up to version 4, which the authors of AdaLoRA and IncreLoRA trained with.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from harness.config import TrainConfig
from harness.errors import ConfigError
from harness.schedule import learning_rate
from methods.hooks import Hooks

# The names that transformers.Trainer spares from weight decay, beside everything inside a torch LayerNorm. A trained copy
# has the name of what it is a copy of, with slashes.
UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|[./])norm(?:$|[./])|_norm(?:$|[./])")


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
    """AdamW (decoupled decay, bias-corrected) over what is trained now: the one that `settings.optimizer` names.

    torch's is one fused kernel where the layout allows. Without a GPU there is nothing to page out of, and
    `paged_adamw` is torch's too. Raises ConfigError where bitsandbytes is missing.
    """
    groups = parameter_groups(model, hooks, settings, base)
    if not groups:
        raise ValueError("nothing is trained: no parameter of the model requires a gradient")
    parameters = [p for group in groups for p in group["params"]]
    options: dict[str, Any] = {
        "lr": base,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw_hf":
        return FormerAdamW(groups, **options)
    if settings.optimizer == "paged_adamw" and parameters[0].is_cuda:
        return _bitsandbytes().optim.PagedAdamW32bit(groups, **options)
    return AdamW(groups, fused=all(p.is_contiguous() and p.dtype.is_floating_point for p in parameters), **options)


def _bitsandbytes() -> Any:
    """The package. Raises ConfigError where it is missing."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            "train.optimizer=paged_adamw needs bitsandbytes: pip install 'peft-harness[quantization]'"
        ) from error
    return bitsandbytes


class FormerAdamW(Optimizer):
    """transformers' own AdamW, as it was up to version 4. Two things differ from torch's, both of them slightly:

    epsilon is added to sqrt(v) before the correction of v's bias, not after; and the decay, lr * weight_decay * w,
    takes w after the update, not before.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter with a gradient. A closure is not called: the loop has computed gradients."""
        for group in self.param_groups:
            moved: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved:
                self._update(moved, group)

    def _update(self, moved: list[Tensor], group: dict[str, Any]) -> None:
        """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - c m / (sqrt(v) + eps);  w <- w - lr decay w.

        c = lr sqrt(1 - b2^t) / (1 - b1^t), with t counting the parameter's own updates.
        """
        (beta1, beta2), rate = group["betas"], float(group["lr"])
        for parameter in moved:
            if not self.state[parameter]:
                zeros = torch.zeros_like(parameter)
                self.state[parameter] = {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            self.state[parameter]["step"] += 1
        states = [self.state[parameter] for parameter in moved]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        first, second = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, gradients, alpha=1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, group["eps"])
        corrections = [math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"]) for state in states]
        torch._foreach_addcdiv_(moved, first, denominators, [-rate * correction for correction in corrections])
        if group["weight_decay"] > 0:
            torch._foreach_add_(moved, moved, alpha=-rate * group["weight_decay"])


def set_rates(
    optimizer: Optimizer, step: int, start_step: int, warmup: int, total_steps: int, schedule: str
) -> list[float]:
    """Give each group the rate of update `step`: by its own `start_step`, `warmup_steps`, `schedule`, else by these.

    A group that a hook added is met here for the first time: its `lr` is the base rate and is kept as `initial_lr`.
    Raises ValueError where such a group does not suit the fused kernel (see `align`).
    """
    for group in optimizer.param_groups:
        if "initial_lr" not in group and group.get("fused") and not all(p.is_contiguous() for p in group["params"]):
            raise ValueError("a parameter that a hook added to the optimizer is not contiguous in memory")
        base = group.setdefault("initial_lr", group["lr"])
        born, rising = group.get("start_step", start_step), group.get("warmup_steps", warmup)
        group["lr"] = learning_rate(base, step, born, rising, total_steps, group.get("schedule", schedule))
    return [group["lr"] for group in optimizer.param_groups]


def trained(optimizer: Optimizer, model: nn.Module) -> list[nn.Parameter]:
    """Every parameter the optimiser moves, in the model's own order, then those that the model does not own.

    In that order a global norm sums up as in transformers.Trainer, to the bit.
    """
    moved = {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}
    owned = [moved.pop(id(parameter)) for parameter in model.parameters() if id(parameter) in moved]
    return owned + list(moved.values())


def state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """Groups with all their options, hooks' own ones included, and moments; parameters by the names of the model.

    Raises ValueError for a parameter that the model does not own: it has no name to be found again by.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in names for parameter in parameters):
        raise ValueError("the optimizer moves a parameter that is no part of the model; register it there")
    plain, order = optimizer.state_dict(), [names[id(parameter)] for parameter in parameters]
    groups = [{**group, "params": [order[place] for place in group["params"]]} for group in plain["param_groups"]]
    return {"groups": groups, "moments": {order[place]: moments for place, moments in plain["state"].items()}}


def load_state(optimizer: Optimizer, model: nn.Module, state: dict[str, Any]) -> None:
    """The groups and moments that `state` describes, in place of those that `build` made."""
    parameters, order = dict(model.named_parameters()), [name for group in state["groups"] for name in group["params"]]
    places = {name: place for place, name in enumerate(order)}
    optimizer.param_groups.clear()
    for group in state["groups"]:
        optimizer.add_param_group({**group, "params": [parameters[name] for name in group["params"]]})
    groups = [{**group, "params": [places[name] for name in group["params"]]} for group in state["groups"]]
    moments = {places[name]: found for name, found in state["moments"].items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def clip(parameters: list[nn.Parameter], norm: float | None) -> Tensor:
    """Scale the gradients to this norm where theirs is greater; returns theirs, a scalar on the device.

    Without a limit it is measured all the same: one that is not finite is noticed before it reaches the next loss.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if norm is None:
        return torch.nn.utils.get_total_norm(gradients)
    return torch.nn.utils.clip_grad_norm_(parameters, norm)


def align(parameters: list[nn.Parameter]) -> None:
    """Bring gradients into the layout of their parameters.

    torch's fused AdamW walks the raw memory of both: on a CPU (torch 2.13) a transposed gradient gives wrong updates
    without a word. Autograd keeps the layouts equal; a hook that assigns `grad` may not.
    """
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
