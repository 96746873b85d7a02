"""AdaLoRA's budget: how many triplets it allows at which step, how each one is scored, and the mask.

Layers of equal shape are stacked, so all of it takes as many operations for twelve layers as for two, and nothing in it
makes a GPU wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.reparameterized.svd_form import by_shape, smooth_


@dataclass(frozen=True)
class Schedule:
    """The budget b(t), equation 14: of all triplets in steps 0 to `warmup`, of the last `final` of `total` steps."""

    initial: int
    target: int
    warmup: int
    final: int
    interval: int
    total: int

    def __call__(self, step: int) -> tuple[int, bool]:
        """How many triplets the budget allows after step `step` (from 0), and whether a mask is due."""
        if step <= self.warmup:
            return self.initial, False
        if step > self.total - self.final:
            return self.target, True
        left = 1 - (step - self.warmup) / (self.total - self.final - self.warmup)
        return int(self.target + (self.initial - self.target) * left**3), step % self.interval == 0


def survivors(scores: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Which triplets stay when the budget allows so many, and the threshold that all others do not exceed.

    Args:
        scores: of every triplet, layers x rank.
        budget: less than there are triplets; of a tie at the threshold none stays, so fewer may be left.

    Returns:
        A mask in the shape of the scores, and a scalar on their device: nothing here waits for it.
    """
    threshold = scores.flatten().kthvalue(scores.numel() - budget).values
    return scores > threshold, threshold


class Stack:
    """All matrices of one kind and shape, and what is remembered of their entries (layers x rows x columns).

    Args:
        kind: E, A or B.
        places: the layers' places in the model's order.
        matrices: one a layer.
    """

    def __init__(self, kind: str, places: list[int], matrices: list[Tensor]) -> None:
        self.kind, self.matrices = kind, matrices
        self.places = torch.tensor(places, device=matrices[0].device)
        self.mean = torch.zeros(len(places), *matrices[0].shape).to(matrices[0])
        self.uncertainty = torch.zeros_like(self.mean)

    def observe(self, beta1: float, beta2: float) -> None:
        """Smooth the sensitivity of this step (equations 8 to 10). A layer that took no part has none."""
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self.matrices]
        now = torch.stack(self.matrices).mul_(torch.stack(gradients)).abs_()
        smooth_(self.mean, self.uncertainty, now, beta1, beta2)

    def score(self) -> Tensor:
        """s = Ibar Ubar, averaged over the entries of a triplet's vector: layers x rank."""
        return (self.mean * self.uncertainty).mean(1 if self.kind == "B" else 2)


class Allocator:
    """Sensitivity, scores and mask of all triplets.

    Args:
        forms: of every layer, in the model's order, each with E (rank x 1), A (rank x in) and B (out x rank).
        beta1: smoothing of the sensitivity.
        beta2: smoothing of its uncertainty.
    """

    def __init__(self, forms: Sequence[Any], beta1: float, beta2: float) -> None:
        self.beta1, self.beta2, self.masked = beta1, beta2, False
        self.values: list[Tensor] = [form.E for form in forms]
        self.stacks: list[Stack] = []
        for kind in "EAB":
            matrices = [getattr(form, kind) for form in forms]
            self.stacks += [Stack(kind, places, [matrices[p] for p in places]) for places in by_shape(matrices)]

    def state(self) -> dict[str, Any]:
        """What was observed so far."""
        stacks = [{"mean": stack.mean, "uncertainty": stack.uncertainty} for stack in self.stacks]
        return {"masked": self.masked, "stacks": stacks}

    def load(self, state: dict[str, Any]) -> None:
        """Have observed what `state` says."""
        self.masked = state["masked"]
        for stack, known in zip(self.stacks, state["stacks"], strict=True):
            stack.mean.copy_(known["mean"])
            stack.uncertainty.copy_(known["uncertainty"])

    @torch.no_grad()
    def observe(self) -> None:
        """Take in one step's sensitivity |w g|. Raises RuntimeError where the gradients are gone."""
        if all(value.grad is None for value in self.values):
            raise RuntimeError(
                "AdaLoRA finds no gradients: it is called before they are set to zero, after a backward pass through "
                "the adapted layers"
            )
        for stack in self.stacks:
            stack.observe(self.beta1, self.beta2)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Equation 7, of every triplet: layers x rank."""
        sums = {kind: self.values[0].new_zeros(len(self.values), len(self.values[0])) for kind in "EAB"}
        for stack in self.stacks:
            sums[stack.kind].index_copy_(0, stack.places, stack.score())
        return sums["E"] + (sums["A"] + sums["B"])

    @torch.no_grad()
    def mask(self, budget: int) -> Tensor:
        """Set the singular values of all but the survivors to zero. Returns the threshold, a scalar on the device."""
        survives, threshold = survivors(self.scores(), budget)
        kept = torch.stack(self.values).masked_fill_(~survives.unsqueeze(2), 0.0)
        torch._foreach_copy_(self.values, torch.unbind(kept))
        self.masked = True
        return threshold
