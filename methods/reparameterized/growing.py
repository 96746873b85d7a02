"""The pieces of IncreLoRA: the form that grows, the score that its layer gets on the way back, and when it grows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import linear
from torch.optim import Optimizer

from methods.reparameterized.svd_form import drawn, scale, steps_of

FADED = 1e-10  # of a score: float32 rounds at 6e-8


class GrowingTriplets(nn.Module):
    """`s B (E o A) x` in blocks: the first triplets, one block a growth, and the reserve behind them.

    The reserve has an entry in A and B and none in E: its singular values are the constant `reserve` (None: there is
    no reserve). `rank` counts what is in use.

    Args:
        layer: the linear layer beside which the form stands.
        blocks: triplets of the blocks that are in use.
        add: triplets of one growth.
        alpha: see `methods.reparameterized.svd_form.scale`.
        dropout: probability, on the input.
    """

    def __init__(self, layer: nn.Linear, blocks: Sequence[int], add: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.shape, self.add = (layer.out_features, layer.in_features), add
        self.alpha, self.init_rank, self.rank = alpha, blocks[0], sum(blocks)
        self.A = nn.ParameterList([drawn(size, layer.in_features) for size in blocks])
        self.E = nn.ParameterList([nn.Parameter(torch.zeros(size, 1)) for size in blocks])
        self.B = nn.ParameterList([drawn(layer.out_features, size) for size in blocks])
        self.dropout = nn.Dropout(dropout)
        self.reserve: float | None = None
        self.observing = False  # from the start of training until the target is reached
        self.score: Tensor | None = None
        self.gradient: Tensor | None = None  # dL/dD, where another process has the rest of it

    def left(self) -> Tensor:
        """B with the reserve, out x rank."""
        return torch.cat(list(self.B), 1)

    def right(self) -> Tensor:
        """A with the reserve, rank x in."""
        return torch.cat(list(self.A))

    def factors(self) -> tuple[Tensor, Tensor]:
        """s (E o A), rank x in, and B. A reserve that counts for nothing is left out."""
        values, count = list(self.E), len(self.E)
        if self.reserve:
            values.append(values[0].new_full((self.add, 1), self.reserve))
            count += 1
        right = _joined(values, 0) * _joined(list(self.A)[:count], 0)
        return scale(self.alpha, self.rank, self.init_rank) * right, _joined(list(self.B)[:count], 1)

    def delta(self) -> Tensor:
        """D, the change of the layer's weight, out x in."""
        right, left = self.factors()
        return left @ right

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out): what is added. While training, the way back takes the score."""
        right, left = self.factors()
        states = self.dropout(states)
        change = linear(linear(states, right), left)
        return _Scored.apply(change, states.detach(), self) if self.observer() else change

    def observer(self) -> Callable[[Tensor, Tensor], None] | None:
        """While training, the way back takes the score."""
        return self.take_score if self.training and self.observing else None

    def take_score(self, states: Tensor, gradient: Tensor) -> None:
        """S = sum |D o dL/dD| / sqrt(in * out), where dL/dD = gradient' x states: (tokens, out), (tokens, in)."""
        with torch.no_grad():
            delta = self.delta()
            of_delta = gradient.to(delta.dtype).mT @ states.to(delta.dtype)
            self.score = module_score(delta, of_delta)
            self.gradient = of_delta if several() else None  # not the whole one: `gather` sums it up

    def lay_in(self, value: float, trained: bool, generator: torch.Generator | None = None) -> list[nn.Parameter]:
        """A new reserve; its A and B, which train where `trained`."""
        outputs, inputs = self.shape
        like = self.A[0]
        for blocks, shape in ((self.A, (self.add, inputs)), (self.B, (outputs, self.add))):
            block = drawn(*shape, generator=generator)
            blocks.append(nn.Parameter(block.data.to(like), requires_grad=trained))
        self.reserve = value
        return [self.A[-1], self.B[-1]]

    def set_free(self) -> list[nn.Parameter]:
        """The reserve comes into use: its E, A and B."""
        self.E.append(nn.Parameter(self.E[0].new_full((self.add, 1), self.reserve or 0.0)))
        self.rank, self.reserve = self.rank + self.add, None
        return [self.E[-1], self.A[-1].requires_grad_(), self.B[-1].requires_grad_()]

    def resize(self, rank: int, reserve: float | None, trained: bool = True) -> None:
        """The blocks of another moment, with a reserve that trains where `trained`. What is new is zero, to be filled.

        Going back, the reserve of that time is the block that came into use after it.
        """
        used = len(self.E) + (rank - self.rank) // self.add
        kept = used + (reserve is not None)
        outputs, inputs = self.shape
        self.E = _resized(self.E, used, (self.add, 1))
        self.A, self.B = _resized(self.A, kept, (self.add, inputs)), _resized(self.B, kept, (outputs, self.add))
        self.rank, self.reserve = rank, reserve
        if reserve is not None:
            self.A[-1].requires_grad_(trained)
            self.B[-1].requires_grad_(trained)


def _resized(blocks: nn.ParameterList, count: int, shape: tuple[int, int]) -> nn.ParameterList:
    """The first `count` blocks; those that are not there yet are zero."""
    new = [nn.Parameter(blocks[0].new_zeros(shape)) for _ in range(count - len(blocks))]
    return nn.ParameterList([*list(blocks)[:count], *new])


def _joined(blocks: list[Tensor], along: int) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, along)


def module_score(delta: Tensor, gradient: Tensor) -> Tensor:
    """S = sum |D o dL/dD| / sqrt(in * out) of one layer, a scalar. Both matrices are out x in."""
    return (gradient * delta).abs_().sum() / math.sqrt(delta.numel())


def to_grow(scores: Tensor, count: int, exact: bool) -> tuple[list[int], float]:
    """The layers to grow, in their order, and the threshold: the `count`-th highest score.

    Every layer at or above it grows, so ties grow more than `count`; with `exact` so many grow, the first of the tied.
    """
    highest = torch.sort(scores, descending=True, stable=True)
    threshold = highest.values[count - 1]
    places = highest.indices[:count].sort().values if exact else (scores >= threshold).nonzero().flatten()
    return places.tolist(), threshold.item()


class _Scored(torch.autograd.Function):
    """The identity; on the way back it gives its form the score, from the gradient of what the form adds."""

    @staticmethod
    def forward(ctx: Any, change: Tensor, states: Tensor, form: GrowingTriplets) -> Tensor:
        """Keep the form's input; nothing more than the form's own matrix products keep already."""
        ctx.save_for_backward(states)
        ctx.form = form
        return change.view_as(change)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (states,), gradient = ctx.saved_tensors, gradients[0]
        ctx.form.take_score(states.flatten(0, -2), gradient.flatten(0, -2))
        return gradient, None, None


def several() -> bool:
    """Whether this is one of several processes that train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@torch.no_grad()
def gather(forms: Sequence[GrowingTriplets]) -> None:
    """Scores of the whole batch, where each process has seen its share of the rows: |D o dL/dD| is not linear in them."""
    for form in forms if several() else ():
        delta = form.delta()
        gradient = torch.zeros_like(delta) if form.gradient is None else form.gradient
        distributed.all_reduce(gradient)
        form.score, form.gradient = module_score(delta, gradient), None


@dataclass(frozen=True)
class Plan:
    """When the layers grow, and how many at a time: in steps above `warmup` that `interval` divides.

    `memory`: how many steps' scores a growth goes by; what earlier ones left in the averages has faded (`memory_of`).
    """

    warmup: int
    interval: int
    modules: int
    memory: int

    def due(self, step: int) -> bool:
        """Whether a growth is due in step `step` (from 0)."""
        return step > self.warmup and step % self.interval == 0

    @property
    def first(self) -> int:
        """The step of the first growth."""
        return (self.warmup // self.interval + 1) * self.interval

    def counts(self, step: int) -> bool:
        """Whether the score of a step still shows when the next growth is due."""
        return max(self.first, math.ceil(step / self.interval) * self.interval) - step < self.memory

    def check(self, growths: int, target: int, total_steps: int, given: bool) -> None:
        """Warn where so many growths of a layer end too late.

        Raises ValueError where an interval that was given leaves no time for the first.
        """
        last = self.first + (math.ceil(growths / self.modules) - 1) * self.interval
        if growths > 0 and last >= total_steps:
            message = (
                f"IncreLoRA grows in steps {self.first} to {last} to reach {target} triplets, and there are "
                f"{total_steps} steps; train longer, or give a smaller interval_steps or a greater modules_per_growth"
            )
            if given and self.first >= total_steps:
                raise ValueError(message)
            warnings.warn(message, stacklevel=3)


def farthest(missing: int, add: int, modules: Iterable[int], exact: bool) -> tuple[int, int]:
    """What growing can come to: triplets beyond the `missing` ones, and growths of one layer that grows every time.

    Args:
        add: triplets of one growth of a layer.
        modules: the numbers of layers that may grow at a time; of these the farthest counts.
        exact: whether nothing grows that does not fit.
    """
    over, rounds = 0, 0
    for layers in modules:
        left, count = missing, 0
        while (growing := min(layers, left // add if exact else left)) > 0:
            left, count = left - growing * add, count + 1
        over, rounds = max(over, -left), max(rounds, count)
    return over, rounds


def plan_of(config: Any, growths: int, layers: int, total_steps: int) -> Plan:
    """The plan of an `IncreLoRAConfig` for so many growths of a layer, in a training of `total_steps`."""
    interval = max(1, steps_of(config.interval_steps, config.interval_fraction, total_steps))
    warmup = interval if config.init_warmup_steps is None else config.init_warmup_steps
    memory = memory_of(config.beta1, config.beta2)
    rounds = math.ceil((config.growth_fraction * total_steps - Plan(warmup, interval, 1, memory).first) / interval)
    modules = config.modules_per_growth or max(1, math.ceil(growths / max(1, rounds)))
    return Plan(warmup, interval, min(modules, layers), memory)


def memory_of(beta1: float, beta2: float) -> int:
    """Steps after which a score is lost in the rounding of averages with these factors: n beta^n is under `FADED`."""
    steps, beta = 1, max(beta1, beta2)
    while (steps + 1) * beta**steps > FADED:
        steps += 1 + steps // 16
    return steps


def rates_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, float]:
    """The base rate and the weight decay of the group that a parameter is in."""
    homes = [group for group in optimizer.param_groups if any(parameter is member for member in group["params"])]
    home = homes[0] if homes else optimizer.defaults
    return {"lr": home.get("initial_lr", home["lr"]), "weight_decay": home["weight_decay"]}
