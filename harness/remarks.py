"""What a reader of a run's number must know beside it: kept in the record, shown below every table that uses it."""

from __future__ import annotations

from functools import reduce
from typing import Any

from harness import pack, recipe
from harness.config import RunConfig
from harness.task import Task


def of(config: RunConfig, task: Task, device: str) -> list[str]:
    """Before the run: a subset of the rows, a fallback recipe, values that nobody published, a trial of a search."""
    told, known = list(task.remarks), config.recipe
    if known.name in ("none", "fallback"):
        told.append(f"recipe {known.name}: no published hyper-parameters for this method, backbone and task")
    told += [f"recipe {known.name}: {said}" for said in unpublished(config)]
    told += [f"deviates from recipe {known.name}: {', '.join(found)}" for found in [deviations(config)] if found]
    if known.trials:
        told.append(chosen_by(known.trials, config.task.selects))
    if config.generation.validation_rows is not None and config.train.evaluate_every_epochs is not None:
        told.append(
            f"while training, at most the first {config.generation.validation_rows} {task.selects} rows are scored"
        )
    if config.pack > 1:
        told.append(pack.REMARK)
    if config.train.optimizer == "paged_adamw" and device != "cuda":
        told.append("train.optimizer=paged_adamw: nothing to page out of without a GPU; this is plain AdamW")
    parts = config.task.parts.values() or [config.task]
    if config.train.label_smoothing and any(part.kind == "regression" for part in parts):
        told.append("train.label_smoothing has no effect on a regression: it is of classes")
    return told


def shared(processes: int) -> list[str]:
    """That several processes made a run: no part of its identity, and with dropout equal in law, not in bits."""
    if processes == 1:
        return []
    return [
        f"made by {processes} processes: losses as of one to 1e-5 without dropout; with it equal in law, not in bits"
    ]


def chosen_by(trials: int, split: str) -> str:
    """That a search of ours chose a run's values, on which split."""
    return f"values chosen by {trials} trials on {split} (harness.search)"


def deviations(config: RunConfig) -> list[str]:
    """What the command line changed of the recipe's values: the key, its value, and the recipe's."""
    known = config.recipe
    if not known.tags:
        return []
    names = {
        "method": config.method["name"],
        **{group: getattr(config, group).name for group in ("model", "budget", "task")},
    }
    own = recipe.tagged(names | {"variant": known.variant})
    changed = [key for key, tag in known.tags.items() if tag == "command line" and key in own]
    told = [f"{key}={_at(config, key)} (recipe: {own[key]})" for key in changed]
    if config.train.max_steps is not None and "train.max_steps" not in known.tags and "train.epochs" in own:
        told.append(f"train.max_steps={config.train.max_steps} (recipe: train.epochs={own['train.epochs']})")
    return told


def unpublished(config: RunConfig) -> list[str]:
    """Which of a recipe's values nobody has published, and whether this run is a trial of the search for them.

    `recipe.search` holds the values among which a paper chose without saying which, the same for all its baselines: run
    over it, each of them gets equal trials. A run at one of these values is one trial, by the recipe or the command line.
    """
    known = config.recipe
    unknown = [key for key, tag in known.tags.items() if tag == "unknown"]
    told = [f"not published, chosen here: {', '.join(unknown)}"] if unknown else []
    return told + [_trial(key, _at(config, key), grid) for key, grid in known.search.items()]


def _trial(key: str, value: Any, grid: list[Any]) -> str:
    among = f"the {len(grid)} values, equal for every method, among which the paper chose"
    if value in grid:
        return f"{key}={value:g} is one of {among}; this run is one trial of that search"
    return f"{key}={value:g} is none of {among}"


def _at(config: RunConfig, key: str) -> Any:
    """The value under a dotted key."""
    return reduce(
        lambda found, part: found[part] if isinstance(found, dict) else getattr(found, part), key.split("."), config
    )


def cut_short(splits: dict[str, Any]) -> list[str]:
    """After tokenising: which splits lost tokens to the length limits."""
    lost = {split: part.truncated_rows for split, part in splits.items() if part.truncated_rows}
    return [
        f"{count} of {len(splits[split])} {split} rows were cut to the length limit" for split, count in lost.items()
    ]
