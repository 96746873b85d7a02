"""When what happens: how many updates, at which learning rate, in which stages, and after which to evaluate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise

from harness.config import TrainConfig
from methods.hooks import Phase


@dataclass(frozen=True)
class Stage:
    """Updates `start` to `end` (not included): one trained set, one optimiser, one warm-up and decay."""

    phase: Phase | None
    start: int
    end: int
    learning_rate: float
    warmup_steps: int


def learning_rate(
    base: float, step: int, start_step: int, warmup_steps: int, total_steps: int, schedule: str = "linear"
) -> float:
    """The rate of update `step` (from 0) for a group born at `start_step` in a training that ends at `total_steps`.

    Its clock starts at 0 when it is born. `linear` is transformers' `get_linear_schedule_with_warmup` on that clock, of
    length `total_steps - start_step`: from 0 up over `warmup_steps`, then down to 0 at the end. `constant` stays up.
    """
    clock, length = step - start_step, total_steps - start_step
    if clock < warmup_steps:
        return base * (max(clock, 0) / max(1, warmup_steps))
    if schedule == "constant":
        return base
    return base * max(0.0, (length - clock) / max(1, length - warmup_steps))


def warmup_steps(settings: TrainConfig, total_steps: int) -> int:
    """`train.warmup_steps`, or that share of all steps that `train.warmup_ratio` says, rounded up."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    return math.ceil(settings.warmup_ratio * total_steps)


def total_steps(settings: TrainConfig, steps_per_epoch: int) -> int:
    """`train.max_steps`, or as many updates as `train.epochs` needs, the last one whole."""
    return math.ceil(settings.epochs * steps_per_epoch) if settings.max_steps is None else settings.max_steps


def evaluation_steps(every_epochs: float | None, steps_per_epoch: int, total: int) -> set[int]:
    """After how many updates to evaluate: every `every_epochs` epochs (at least one update apart) and at the end."""
    if every_epochs is None:
        return set()
    return {*range(0, total, max(1, round(every_epochs * steps_per_epoch))), total} - {0}


def stages(phases: list[Phase], settings: TrainConfig, total: int) -> list[Stage]:
    """A method's phases as ranges of updates, each with its own warm-up and decay; one stage where it has none.

    Raises ValueError where the fractions do not sum to 1.
    """
    warmup = warmup_steps(settings, total)
    if not phases:
        return [Stage(None, 0, total, settings.learning_rate, warmup)]
    ends = list(accumulate(phase.fraction for phase in phases))
    if abs(ends[-1] - 1) > 1e-6:
        raise ValueError(f"the fractions of phases {[phase.name for phase in phases]} sum to {ends[-1]:g}, not to 1")
    bounds = [0, *(round(end * total) for end in ends)]
    rates = [settings.learning_rate if phase.learning_rate is None else phase.learning_rate for phase in phases]
    return [
        Stage(phase, start, end, rate, round(phase.fraction * warmup))
        for phase, (start, end), rate in zip(phases, pairwise(bounds), rates, strict=True)
    ]
