"""Budget levels: what size each method has at `budget=0.3M`, from `conf/budget/sizes.toml`.

A level gives a method the paper's size on the paper's backbone. Everywhere else (another backbone, a method that the
paper did not size) it is a ceiling, and `budget.py` solves for the largest size below it. `budget=default` is the size
in the method's own YAML, except where a row of `[[default]]` names the level that stands in the paper's tables.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from harness import rows
from harness.paths import CONF

CONDITIONS = ("method", "model", "budget", "task")
SAYS = ("params", "counted", "published", "unit", "tag", "reason")


def sizes() -> list[rows.Row]:
    """All sizes of all levels: `set` for method x model x budget, with the counts that belong to them."""
    return rows.read(CONF / "budget" / "sizes.toml", "sizes", CONDITIONS, SAYS, "set")


def counts() -> list[rows.Row]:
    """What papers print of parameters beside the sizes of a level: `params` here, and why it is not the same."""
    says = ("arguments", "published", "unit", "tasks", "bits", "published_bits", "reason")
    return rows.read(CONF / "budget" / "sizes.toml", "counts", ("method", "model"), says, "params")


def _defaults() -> list[rows.Row]:
    return rows.read(CONF / "budget" / "sizes.toml", "default", CONDITIONS, (), "level")


def resolve(run: dict[str, str]) -> str:
    """The name of the level of a run given by method, model, budget and task; `default` may stand for another one."""
    if run["budget"] != "default":
        return run["budget"]
    found = [row["level"] for row in _defaults() if rows.fits(row, run)]
    return found[-1] if found else "default"


def values(run: dict[str, str]) -> dict[str, Any]:
    """What the level sets for a run, with dotted keys: the method's size; in place of `default` the level itself."""
    level = resolve(run)
    settings: dict[str, Any] = {}
    if level != run["budget"]:
        named: Any = OmegaConf.to_container(OmegaConf.load(CONF / "budget" / f"{level}.yaml"))
        settings = {f"budget.{key}": value for key, value in named.items() if key != "defaults"}
    for row in sizes():
        if rows.fits(row, run | {"budget": level}):
            settings |= row["set"] | {"budget.sized": True, "budget.level_params": None, "budget.level_percent": None}
    return settings
