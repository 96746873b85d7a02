"""The parameter budget: from a ceiling to a method's size, counted on the meta device.

A method's YAML says under `size` which of its fields a budget may change, as multiples of one number: `{r: 1}`, or
`{target_rank: 1, init_rank: 1.5}` (rounded up). Methods that learn where their parameters go are held to the ceiling at
uniform allocation; the most that they can end up with stands beside it. The task head is never counted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import level, model, rows
from harness.config import BudgetConfig, ModelConfig
from harness.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from harness.task import Task

LIMIT = 2**20  # no field of any method is as large


def solve(
    budget: BudgetConfig, method: dict[str, Any], spec: ModelConfig, directory: Path, task: Task
) -> tuple[dict[str, Any], list[str]]:
    """The method's section of the configuration at the size that the budget gives, and what to remark on.

    Args:
        budget: a ceiling, or a level that gives this method no size here. Otherwise the section stays as it is.
        method: the section `method`; without `size` a budget cannot change it, and only `check` applies.
        spec: the backbone, built without weights from `directory`. task: gives it its head.

    Raises:
        ConfigError: the smallest size is above the ceiling, or the level says nothing of such a method.
    """
    if not method.get("size") or (budget.sized and budget.max_adapter_params is None):
        return method, []
    skeleton = model.skeleton(spec, directory, task)
    ceiling = _ceiling(budget, method["name"], skeleton)

    @cache
    def counts(size: int) -> tuple[int, int]:
        return planned(_attached(skeleton, at(method, size), spec, task))

    size = largest(lambda size: counts(size)[0], ceiling, method)
    made, (uniform, worst) = at(method, size), counts(size)
    told = f"size solved for {ceiling:,} parameters: {_fields(made)}, {uniform:,} adapter parameters"
    return made, [told if worst == uniform else f"{told} at uniform allocation, {worst:,} at most"]


def _ceiling(budget: BudgetConfig, name: str, skeleton: PreTrainedModel) -> int:
    """The largest number of adapter parameters allowed. Raises ConfigError where a level has none for this method."""
    if budget.max_adapter_params is not None:
        return budget.max_adapter_params
    if budget.level_params is not None:
        return budget.level_params
    if budget.level_percent is not None:
        return int(budget.level_percent / 100 * sum(parameter.numel() for parameter in skeleton.parameters()))
    known = sorted({found for row in level.sizes() if budget.name in rows.patterns(row, "budget")
                    for found in rows.patterns(row, "method")})  # fmt: skip
    raise ConfigError(
        f"budget={budget.name} says no size for method {name}, only for {', '.join(known)}; choose another level, or "
        "budget.max_adapter_params=N, which is solved for"
    )


def at(method: dict[str, Any], size: int) -> dict[str, Any]:
    """The method's section with its size fields at a size."""
    return method | {field: math.ceil(round(share * size, 6)) for field, share in method["size"].items()}


def _fields(method: dict[str, Any]) -> str:
    return ", ".join(f"method.{field}={method[field]}" for field in method["size"])


def _attached(skeleton: PreTrainedModel, method: dict[str, Any], spec: ModelConfig, task: Task) -> PeftModel:
    """The method on a copy of a backbone without weights."""
    import torch

    with torch.device("meta"):
        backbone = copy.deepcopy(skeleton)
        return model.attach(backbone, model.method_config(method, spec, task.kind, backbone), seed=0)


def by_shapes(method: dict[str, Any], spec: ModelConfig, directory: Path, task: Task) -> tuple[int, int]:
    """`planned` of the method on a backbone without weights."""
    return planned(_attached(model.skeleton(spec, directory, task), method, spec, task))


def planned(tuned: PeftModel) -> tuple[int, int]:
    """Adapter parameters at uniform allocation, and at most: both what is built, unless the method says otherwise."""
    from methods import hooks

    built = model.count(tuned, None).adapter
    return hooks.find(tuned).planned_params() or (built, built)


def largest(trained: Callable[[int], int], ceiling: int, method: dict[str, Any]) -> int:
    """The largest size whose number of parameters is at most `ceiling`; a size that the backbone refuses is too large.

    The number grows with the size, mostly in a straight line: its first two points say where to look.
    """
    smallest = trained(1)
    if smallest > ceiling:
        raise ConfigError(
            f"method {method['name']} at its smallest size ({_fields(at(method, 1))}) trains {smallest:,} adapter "
            f"parameters, above budget.max_adapter_params={ceiling:,}; allow at least {smallest:,}, or choose another "
            "method"
        )

    def fits(size: int) -> bool:
        try:
            return trained(size) <= ceiling
        except ConfigError:  # above the rank of a matrix, say
            return False

    if not fits(2):
        return 1
    slope = max(1, trained(2) - smallest)
    guess = min(LIMIT, max(2, 1 + (ceiling - smallest) // slope))
    low, high = (guess, guess + 1) if fits(guess) else (2, guess)
    while high < LIMIT and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check(budget: BudgetConfig, tuned: PeftModel, method: dict[str, Any]) -> dict[str, int]:
    """What the method at hand trains, for the record. Raises ConfigError where that is above an asked-for ceiling."""
    uniform, worst = planned(tuned)
    ceiling = budget.max_adapter_params
    if ceiling is not None and uniform > ceiling:
        raise ConfigError(
            f"method {method['name']} trains {uniform:,} adapter parameters, above budget.max_adapter_params="
            f"{ceiling:,}, and has no size to choose; allow more, or choose another method"
        )
    return {"planned": uniform, "planned_at_most": worst}
