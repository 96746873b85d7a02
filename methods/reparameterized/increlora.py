"""IncreLoRA: ranks grow where they matter (Zhang et al., 2023, arXiv 2308.12043, section 3).

Every linear layer starts with one triplet, `W x + s B (E o A) x`, and grows by `add_rank` at a time until all layers
together have the target. Which ones grow is a matter of a score per layer: S = sum |D o dL/dD| / sqrt(in * out) with
D = s B (E o A), smoothed like AdaLoRA's (Ibar, Ubar) and multiplied to Ibar Ubar. Every `interval_steps` the layers
with the `modules_per_growth` highest scores grow.

Advance learning: a layer always carries a reserve of `add_rank` triplets whose vectors already train while their
singular values stand at 1e-5. Growing sets those free and lays in a new reserve. When the target is reached exactly,
the reserves' singular values become 0 (`on_train_end` then drops them).

Equal to the authors' code (FeiyuZhang98/IncreLoRA, commit 51a2d73) in every step. Where that code and the paper
differ, the code is followed:

- the score is a sum over sqrt(in * out); the paper's is a mean. It sees the task's gradient alone, before clipping, of
  the last micro-batch; of a layer that one forward pass calls twice (DeBERTa's query and key) the last call on the way
  back counts, which is the one on the contents;
- the penalty is the mean of unsquared norms, over A and B of a layer with reserves ("mean_unsquared"); the paper's is
  a sum of squares ("sum_squared");
- the scale is alpha / (rank + 1e-5) with the present rank, so a growth shrinks what was there by
  (rank + 1e-5) / (rank + add_rank + 1e-5): `trace` logs the relative change of D at each growth;
- a growth takes every layer at or above the k-th highest score, k = min(modules_per_growth, triplets still missing),
  counted in triplets: with add_rank > 1 the last growth can overshoot, then nothing is "reached exactly" and reserves
  stay at 1e-5. `exact_budget` grows exactly the layers that fit instead, ties in the model's order.

What grows gets an optimiser group and a warm-up of its own (`start_step`, the loop's business). A score that will have
faded when the next growth is due (0.85^n n under 1e-10: 178 steps) is not taken, which changes no more than rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.lowrank import Beside
from methods.parts import Activation
from methods.reparameterized.growing import GrowingTriplets, Plan, farthest, gather, plan_of, rates_of, to_grow
from methods.reparameterized.svd_form import SvdConfig, SvdTuner, check_rank, linear_layers, smooth_
from methods.tuner import register

RESERVE = 1e-5  # the singular values of a reserve that trains
ADD_RANK = {2: 1, 4: 2, 6: 3, 8: 4}  # target rank -> triplets of one growth, in the authors' code


@dataclass
class IncreLoRAConfig(SvdConfig):
    """Ranks, the schedule of growth, and what only the code has."""

    add_rank: int | None = field(default=None, metadata={"help": "Triplets of one growth; null: half of target_rank."})
    init_warmup_steps: int | None = field(default=None, metadata={"help": "No growth till then; null: interval_steps."})
    interval_steps: int | None = field(default=None, metadata={"help": "nu: a growth every so many steps."})
    modules_per_growth: int | None = field(default=None, metadata={"help": "h: layers a growth; null: few, in time."})
    interval_fraction: float = field(default=0.025, metadata={"help": "nu / T where interval_steps is null."})
    growth_fraction: float = field(default=0.4, metadata={"help": "In time: in this share of T, where h is null."})
    advance_learning: bool = field(default=True, metadata={"help": "Reserves train before they are set free."})
    own_rates: bool = field(default=True, metadata={"help": "What grows warms up anew; false: constant full rate."})
    exact_budget: bool = field(default=False, metadata={"help": "Never more triplets than the target."})
    rank_pattern: dict[str, int] | None = field(default=None, metadata={"help": "Layer -> rank, as grown; filled in."})
    reserve: float | None = field(default=None, metadata={"help": "Singular values of the reserves; filled in."})

    def __post_init__(self) -> None:
        """Raises ValueError for a setting outside its range."""
        super().__post_init__()
        self.check_at_least_one("add_rank", "interval_steps", "modules_per_growth")
        if self.total_target_rank is None and self.target_rank < self.init_rank:
            raise ValueError(f"target_rank={self.target_rank} is below init_rank={self.init_rank}: ranks only grow")
        if self.add_rank is None and self.target_rank not in ADD_RANK:
            raise ValueError(
                f"target_rank={self.target_rank} has no usual add_rank, only {', '.join(map(str, ADD_RANK))} have; "
                "give add_rank, e.g. 1"
            )

    @property
    def growth(self) -> int:
        """Triplets of one growth."""
        return ADD_RANK[self.target_rank] if self.add_rank is None else self.add_rank


class IncreLoRATuner(SvdTuner):
    """Triplets beside linear layers; they grow while they train."""

    plan: Plan | None = None
    mean: Tensor  # Ibar of every layer, from on_train_begin on
    uncertainty: Tensor
    growths: tuple[dict[str, Any], ...] = ()  # what happened, for `trace`
    seed = 0  # of the next reserve

    def room(self) -> tuple[int, int]:
        """What a layer starts with, and that with a growth every time."""
        start = self.settings.init_rank
        return start, start + self._farthest()[1] * self.settings.growth

    def overshoot(self) -> int:
        """What the last growth may add beyond the target, ties aside."""
        return self._farthest()[0]

    def _farthest(self) -> tuple[int, int]:
        config, layers = self.settings, len(self.parts())
        modules = [min(h, layers)] if (h := config.modules_per_growth) else range(1, layers + 1)
        return farthest(self.total_target() - config.init_rank * layers, config.growth, modules, config.exact_budget)

    def build(self, model: nn.Module, config: IncreLoRAConfig) -> Mapping[str, Activation]:
        """One form a targeted layer, of the rank that the configuration remembers."""
        layers, ranks = linear_layers(model, config), config.rank_pattern or {}
        check_rank(config.target_rank, "target_rank", layers)
        if foreign := sorted(ranks.keys() - layers.keys()):
            lacking = f"that target_modules={config.target_modules} lacks: {foreign[:3]}"
            raise ValueError(f"rank_pattern has layers {lacking}")
        if 0 < (config.total_target_rank or 0) < (start := config.init_rank * len(layers)):
            raise ValueError(
                f"total_target_rank={config.total_target_rank} is below the {start} triplets that {len(layers)} layers "
                "have at the start: ranks only grow"
            )
        self.seed = int(torch.randint(2**31, (), device="cpu"))  # reserves have a stream of their own
        return {
            path: Beside(path, self._form(layer, config, ranks.get(path, config.init_rank)))
            for path, layer in layers.items()
        }

    def _form(self, layer: nn.Linear, config: IncreLoRAConfig, rank: int) -> GrowingTriplets:
        """A form of this rank, with a reserve where the configuration remembers one."""
        blocks = [config.init_rank] + [config.growth] * ((rank - config.init_rank) // config.growth)
        form = GrowingTriplets(layer, blocks, config.growth, config.alpha, config.dropout)
        if config.reserve is not None:
            form.lay_in(config.reserve, trained=config.advance_learning)
        return form

    def ranks(self) -> dict[str, int]:
        """Layer path -> triplets in use, without reserves."""
        return {path: form.rank for path, form in zip(self.parts(), self.forms(), strict=True)}

    def missing(self) -> int:
        """Triplets still to grow; negative after an overshoot. With an exact budget, in whole growths."""
        missing, growth = self.total_target() - sum(self.ranks().values()), self.settings.growth
        return missing // growth * growth if self.settings.exact_budget else missing

    def on_train_begin(self, total_steps: int) -> None:
        """Fix the plan. Raises ValueError where given numbers of steps leave no time for any growth."""
        growths = math.ceil(self.missing() / self.settings.growth)
        self.plan = plan_of(self.settings, growths, len(self.parts()), total_steps)
        zeros = self.forms()[0].E[0].new_zeros(len(self.parts()))
        self.mean, self.uncertainty, self.growths = zeros, zeros.clone(), ()
        self._watch(0)
        self.plan.check(growths, self.total_target(), total_steps, self.settings.interval_steps is not None)

    def will_move(self, total_steps: int) -> bool | None:
        """Whether a growth is due."""
        if self.plan is None or self.missing() <= 0:
            return None
        return any(map(self.plan.due, range(total_steps)))

    def on_pre_optimizer_step(self, step: int, optimizer: Optimizer) -> None:
        """Reserves in step 0; after that scores, and where it is time, a growth."""
        if self.plan is None:
            raise RuntimeError("IncreLoRA does not know the number of steps: call on_train_begin(total_steps) first")
        if step == 0 and self.forms()[0].reserve is None:
            self._add_group(optimizer, step, [block for form in self.forms() for block in self._lay_in(form)])
            self._remember()
        if self.missing() > 0 and self.plan.counts(step):
            gather(self.forms())
            scores = self._observe(self.forms())
            if self.plan.due(step):
                exact, left = self.settings.exact_budget, self.missing()
                count = min(self.plan.modules, left // self.settings.growth if exact else left)
                self._grow(step, optimizer, *to_grow(scores, count, exact))
        self._watch(step + 1)

    @torch.no_grad()
    def _observe(self, forms: list[GrowingTriplets]) -> Tensor:
        """Smooth the scores of this step; a layer that took no part has 0. Returns Ibar Ubar of every layer."""
        scores = torch.stack([form.E[0].new_zeros(()) if form.score is None else form.score for form in forms])
        smooth_(self.mean, self.uncertainty, scores, self.settings.beta1, self.settings.beta2)
        return self.mean * self.uncertainty

    @torch.no_grad()
    def _grow(self, step: int, optimizer: Optimizer, chosen: list[int], threshold: float) -> None:
        """The reserves of the layers at the chosen places come into use, and new ones are laid in."""
        forms = dict(zip(self.parts(), self.forms(), strict=True))
        new: list[nn.Parameter] = []
        jumps = {}
        for path in [list(forms)[place] for place in chosen]:
            before = forms[path].delta()
            freed = forms[path].set_free()
            reserve = self._lay_in(forms[path])
            new += [freed[0], *reserve] if self.settings.advance_learning else freed
            size = before.norm().item()
            jumps[path] = (forms[path].delta() - before).norm().item() / size if size else None
        self._add_group(optimizer, step, new)
        self.growths += ({"step": step, "threshold": threshold, "jumps": jumps},)
        self._remember()

    def _lay_in(self, form: GrowingTriplets) -> list[nn.Parameter]:
        """A reserve for a form, drawn from the adapter's own stream."""
        self.seed += 1
        trained = self.settings.advance_learning
        return form.lay_in(RESERVE if trained else 0.0, trained, torch.Generator().manual_seed(self.seed))

    def _add_group(self, optimizer: Optimizer, step: int, parameters: list[nn.Parameter]) -> None:
        """A group for what trains from the next step on."""
        own = {"start_step": step + 1} if self.settings.own_rates else {"schedule": "constant", "warmup_steps": 0}
        if trained := [parameter for parameter in parameters if parameter.requires_grad]:
            optimizer.add_param_group({"params": trained, **rates_of(optimizer, self.forms()[0].A[0]), **own})

    def _watch(self, step: int) -> None:
        """Forms take scores in this step if it counts: a score costs a product as large as a weight's gradient."""
        wanted = self.missing() > 0 and self.plan is not None and self.plan.counts(step)
        for form in self.forms():
            form.observing = wanted

    def _remember(self) -> None:
        """At the target reserves count for nothing. The saved configuration says which blocks there are."""
        for form in self.forms() if self.missing() == 0 else ():
            form.reserve = None if form.reserve is None else 0.0
        self.settings.rank_pattern, self.settings.reserve = self.ranks(), self.forms()[0].reserve

    def on_train_end(self) -> None:
        """Reserves that count for nothing go."""
        for form in self.forms():
            form.observing = False
            if form.reserve == 0.0:
                form.resize(form.rank, None)
        if self.settings.rank_pattern is not None:
            self._remember()

    def training_state(self) -> dict[str, Any]:
        """The blocks that there are, what the layers' scores were, and the place in the stream of reserves."""
        moments = {"mean": self.mean, "uncertainty": self.uncertainty, "scores": [form.score for form in self.forms()]}
        return {**moments, "observing": self.forms()[0].observing, "seed": self.seed, **self.trace()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The same, back: every layer gets the blocks that it had."""
        for path, form, score in zip(self.parts(), self.forms(), state["scores"], strict=True):
            form.resize(state["ranks"][path], state["reserve"], self.settings.advance_learning)
            form.score, form.observing = score, state["observing"]
        self.mean, self.uncertainty, self.seed = state["mean"].clone(), state["uncertainty"].clone(), state["seed"]
        self.growths = tuple(state["growths"])
        self._remember()

    def trace(self) -> dict[str, Any]:
        """Ranks, the reserves' singular values, and every growth: step, threshold, each grown layer's change of D."""
        return {"ranks": self.ranks(), "reserve": self.forms()[0].reserve, "growths": list(self.growths)}


register("increlora", IncreLoRAConfig, IncreLoRATuner)
