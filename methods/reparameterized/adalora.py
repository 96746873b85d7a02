"""AdaLoRA: a budget of ranks, moved to where they matter (Zhang et al., ICLR 2023, arXiv 2303.10512, section 3).

Every linear layer gets `W x + s B (E o A) x`: triplets of a singular value and its two vectors (equation 3), held near
orthonormal by a penalty (equation 4). Every step measures how sensitive the loss is to each entry, I = |w g|, and
smooths it: Ibar = b1 Ibar + (1 - b1) I, Ubar = b2 Ubar + (1 - b2) |I - Ibar| (equations 8 to 10). A triplet's score is
s(E_i) + mean_j s(B_ji) + mean_j s(A_ij) (equation 7) with s = Ibar Ubar (equation 11). The budget falls by a cubic
from all triplets to the target (equation 14), and the singular values of the lowest-scored triplets become zero. Until
the last phase they may come back.

Equal to the authors' code (QingruZhang/AdaLoRA, commit d10f5eb) in every step. Where that code and the paper differ,
the code is the default and the paper an option, or said here:

- the penalty is a mean of unsquared norms ("mean_unsquared"), in the paper a sum of squares ("sum_squared");
- the sensitivity pairs the weights after the update with the clipped gradient, penalty included, that made it
  ("after_step"); Algorithm 1 takes both before the update ("before_step"); the mask comes after the update in both;
- the scale is alpha / (initial rank + 1e-5) for the whole run; the paper's is alpha / r;
- the numerator of the cubic is t - t_i (equation 14 of the paper has an extra - t_f and would start above the budget);
- kept are scores strictly above the threshold: of tied triplets at the threshold all go;
- at t = T - t_f a mask is due only where the interval divides t; from then on at every step, with frozen scores.

Ours differs on purpose in four points. The penalty is no part of an evaluation loss. With gradient accumulation it counts
once an update; the authors' BART script, which ran without, would count it once a micro-batch. A target equal to the
initial rank, where the code raises, means no pruning at all: the paper's "SVD-LoRA". And layers of equal shape are
computed together, so penalty and allocation take as many operations for twelve layers as for two.

peft has an AdaLoRA of its own under the type ADALORA (`method=adalora_peft`); this one's type is ADALORA_SVD.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.optim import Optimizer

from methods.lowrank import Beside
from methods.parts import Activation
from methods.reparameterized.allocator import Allocator, Schedule
from methods.reparameterized.svd_form import (
    SvdConfig,
    SvdTuner,
    check_rank,
    drawn,
    linear_layers,
    scale,
    steps_of,
)
from methods.tuner import register

SENSITIVITIES = ("after_step", "before_step")


@dataclass
class AdaLoRAConfig(SvdConfig):
    """Ranks, the schedule of the budget, and what the code and the paper do differently."""

    init_rank: int = field(default=12, metadata={"help": "Triplets of every layer at the start."})
    target_rank: int = field(
        default=8, metadata={"help": "Triplets a layer at the end, on average; init_rank: no pruning."}
    )
    warmup_steps: int | None = field(default=None, metadata={"help": "t_i: nothing is pruned up to this step."})
    final_steps: int | None = field(default=None, metadata={"help": "t_f: the last steps, with the final triplets."})
    interval_steps: int = field(default=10, metadata={"help": "Delta_T: a mask is due every so many steps."})
    warmup_fraction: float = field(default=0.15, metadata={"help": "t_i / T where warmup_steps is null; rounded down."})
    final_fraction: float = field(default=0.5, metadata={"help": "t_f / T where final_steps is null; rounded down."})
    sensitivity: str = field(default="after_step", metadata={"help": f"One of {', '.join(SENSITIVITIES)}."})

    def __post_init__(self) -> None:
        """Raises ValueError for a setting outside its range."""
        super().__post_init__()
        self.check_at_least_one("interval_steps")
        if self.total_target_rank is None and self.target_rank > self.init_rank:
            raise ValueError(
                f"target_rank={self.target_rank} must not exceed init_rank={self.init_rank}: ranks only fall"
            )
        if self.sensitivity not in SENSITIVITIES:
            raise ValueError(f"sensitivity={self.sensitivity!r} must be one of {', '.join(SENSITIVITIES)}")


class Triplets(nn.Module):
    """`s B (E o A) x`, with E zero at the start: nothing is added."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.A = drawn(rank, layer.in_features)
        self.E = nn.Parameter(torch.zeros(rank, 1))
        self.B = drawn(layer.out_features, rank)
        self.dropout, self.scale = nn.Dropout(dropout), scale(alpha, rank, rank)

    def left(self) -> Tensor:
        """B, out x rank."""
        return self.B

    def right(self) -> Tensor:
        """A, rank x in."""
        return self.A

    def factors(self) -> tuple[Tensor, Tensor]:
        """s (E o A), rank x in, and B."""
        return self.scale * self.E * self.A, self.B

    def delta(self) -> Tensor:
        """The change of the layer's weight, out x in."""
        right, left = self.factors()
        return left @ right

    def observer(self) -> None:
        """Nothing looks on."""

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out): what is added to the layer's output."""
        right, left = self.factors()
        return linear(linear(self.dropout(states), right), left)


class AdaLoRATuner(SvdTuner):
    """Triplets beside linear layers; the budget falls while they train."""

    allocator: Allocator | None = None
    schedule: Schedule | None = None
    budget: int | None = None  # of the last step

    def room(self) -> tuple[int, int]:
        """None, or all that a layer starts with."""
        return 0, self.settings.init_rank

    def build(self, model: nn.Module, config: AdaLoRAConfig) -> Mapping[str, Activation]:
        """One form a targeted layer."""
        layers = linear_layers(model, config)
        check_rank(config.init_rank, "init_rank", layers)
        if (config.total_target_rank or 0) > config.init_rank * len(layers):
            raise ValueError(
                f"total_target_rank={config.total_target_rank} exceeds the {config.init_rank * len(layers)} triplets "
                f"that {len(layers)} layers have at the start: ranks only fall"
            )
        return {
            path: Beside(path, Triplets(layer, config.init_rank, config.alpha, config.dropout))
            for path, layer in layers.items()
        }

    def on_train_begin(self, total_steps: int) -> None:
        """Fix the schedule. Raises ValueError where it leaves no step to prune in."""
        config, forms = self.settings, self.forms()
        warmup = steps_of(config.warmup_steps, config.warmup_fraction, total_steps)
        final = steps_of(config.final_steps, config.final_fraction, total_steps)
        if warmup + final >= total_steps:
            raise ValueError(
                f"AdaLoRA has no steps to prune in: warmup_steps={warmup} and final_steps={final} take all of the "
                f"{total_steps} training steps. Train longer, or give smaller ones"
            )
        initial, target = config.init_rank * len(forms), self.total_target()
        self.schedule = Schedule(initial, target, warmup, final, config.interval_steps, total_steps)
        self.allocator, self.budget = Allocator(forms, config.beta1, config.beta2), initial
        if target < initial and self.schedule(total_steps - 1) != (target, True):
            warnings.warn(
                f"AdaLoRA's budget of {target} triplets is not enforced after the last of {total_steps} steps, since "
                f"final_steps={final} is less than 2: what was pruned before may be back at the end",
                stacklevel=2,
            )

    def will_move(self, total_steps: int) -> bool | None:
        """Whether a mask is due with fewer triplets than there are."""
        plan = self.schedule
        if plan is None or plan.target >= plan.initial:
            return None
        return any(due and budget < plan.initial for budget, due in map(plan, reversed(range(total_steps))))

    def on_pre_optimizer_step(self, step: int, optimizer: Optimizer) -> None:
        """The paper's place of the sensitivity."""
        if self.settings.sensitivity == "before_step":
            self._observe(step)

    def on_optimizer_step(self, step: int) -> None:
        """The code's place of the sensitivity; then the mask, where one is due."""
        if self.settings.sensitivity == "after_step":
            self._observe(step)
        schedule, allocator = self._planned()
        self.budget, due = schedule(step)
        if due and self.budget < schedule.initial:
            allocator.mask(self.budget)

    def _observe(self, step: int) -> None:
        schedule, allocator = self._planned()
        if schedule.target < schedule.initial and step < schedule.total - schedule.final:
            allocator.observe()

    def _planned(self) -> tuple[Schedule, Allocator]:
        if self.schedule is None or self.allocator is None:
            raise RuntimeError("AdaLoRA does not know the number of steps: call on_train_begin(total_steps) first")
        return self.schedule, self.allocator

    @torch.no_grad()
    def ranks(self) -> dict[str, int]:
        """Layer path -> singular values that are not zero. All count until one was trained or a mask was set."""
        values = torch.stack([form.E for form in self.forms()])
        alive = (values != 0).sum((1, 2)).tolist()
        if not any(alive) and not (self.allocator is not None and self.allocator.masked):
            alive = [values.shape[1]] * len(alive)
        return dict(zip(self.parts(), alive, strict=True))

    def trace(self) -> dict[str, object]:
        """The ranks of the layers, and the budget of the last step. Between two masks, ranks may exceed the budget."""
        return {"ranks": self.ranks(), "budget": self.budget}

    def training_state(self) -> dict[str, Any]:
        """The allocator's averages, and the budget of the last step."""
        return {"budget": self.budget, "allocator": self._planned()[1].state()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The same, back."""
        self.budget = state["budget"]
        self._planned()[1].load(state["allocator"])


register("adalora_svd", AdaLoRAConfig, AdaLoRATuner)
