"""Plain models and a plain training loop for methods that adapt ranks, and the optimizer of their authors.

`train` makes the loop's calls in the documented order, with the authors' AdamW and the rate of every group on the clock
of its own; `Reference...` classes of the tests do the same without hooks.
"""

import math

import torch
from torch import nn


class Chain(nn.Module):
    """Layers of any shapes one after the other, tanh between them; the names are not in alphabetical order."""

    def __init__(self, shapes, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        for name, (outputs, inputs) in shapes.items():
            self.add_module(name, nn.Linear(inputs, outputs))
        self.order = list(shapes)

    def forward(self, inputs):
        for name in self.order[:-1]:
            inputs = torch.tanh(self.get_submodule(name)(inputs))
        return self.get_submodule(self.order[-1])(inputs)


class OldAdamW(torch.optim.Optimizer):
    """AdamW of transformers 4: eps beside sqrt(v) before the bias correction, decay after the update."""

    def __init__(self, groups, lr, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "fused": False})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, self.state[parameter])

    def _update(self, parameter, group, state):
        b1, b2 = group["betas"]
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * parameter.grad
        v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * parameter.grad**2
        rate = group["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t)
        parameter -= rate * m / (v.sqrt() + group["eps"])
        parameter -= group["lr"] * group["weight_decay"] * parameter


def linear_rate(base, clock, warmup, length):
    """Warm-up from 0, then down to 0 at `length`."""
    if clock < warmup:
        return base * clock / max(1, warmup)
    return base * max(0.0, (length - clock) / max(1, length - warmup))


def data(rows, inputs, classes, seed=5):
    """Float64 rows and class labels that a linear rule gives."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    return rows, (rows @ torch.randn(inputs, classes, generator=generator, dtype=torch.float64)).argmax(1)


def train(model, method, optimizer, batch, total, warmup, base=0.05, clip=1.0, observe=None):
    """The loop's order, the penalty in a backward pass of its own. `observe(step, task, penalty, rates)`."""
    method.on_train_begin(total)
    model.train()
    for step in range(total):
        for group in optimizer.param_groups:
            start = group.get("start_step", 0)
            group["lr"] = linear_rate(group.setdefault("initial_lr", base), step - start, warmup, total - start)
        task = nn.functional.cross_entropy(model(batch[0]), batch[1])
        task.backward()
        penalty = method.penalty()
        if penalty is not None:
            penalty.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], clip)
        method.on_pre_optimizer_step(step, optimizer)
        optimizer.step()
        method.on_optimizer_step(step)
        optimizer.zero_grad()
        if observe is not None:
            observe(step, task.item(), 0.0 if penalty is None else penalty.item())
