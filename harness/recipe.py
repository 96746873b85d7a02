"""The papers' hyper-parameters: rows of `conf/recipe/*.toml`, composed by Hydra as if each run had a file of its own.

A row says for which method, model, budget and task it holds (with wildcards) and what it sets; later rows win, the
command line wins over all. `python -m harness --cfg job ...` shows the values that will run. Where no paper's row fits,
`fallback.toml` is used, and the record and the printed line say so. `~recipe` switches recipes off.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from harness.errors import ConfigError
from harness.paths import CONF

CONDITIONS = ("method", "model", "budget", "task")
FALLBACK = "fallback"


@cache
def _files() -> dict[str, list[dict[str, Any]]]:
    """The rows of every recipe file, by its name."""
    return {path.stem: _rows(path) for path in sorted((CONF / "recipe").glob("*.toml"))}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file. Raises ConfigError naming the file and the row that is malformed."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("rows", [])
    except ValueError as error:
        raise ConfigError(f"recipe file {path.name} is not TOML: {error}") from error
    for number, row in enumerate(rows, start=1):
        if strange := row.keys() - {*CONDITIONS, "set", "source"}:
            raise ConfigError(f"recipe {path.name}, row {number}: unknown key {', '.join(sorted(strange))}")
        if not isinstance(row.get("set"), dict) or "source" not in row:
            raise ConfigError(f"recipe {path.name}, row {number}: needs a table `set` and a `source`")
    return rows


def _fits(row: dict[str, Any], run: dict[str, str]) -> bool:
    return all(fnmatchcase(run[name], row.get(name, "*")) for name in CONDITIONS)


def matching(run: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
    """The recipe's name and its rows for a run given by method, model, budget and task; ("none", []) without any.

    The first file (in the order of names) with a fitting row is the recipe; the fallback comes last.
    """
    files = _files()
    for name in [*sorted(files.keys() - {FALLBACK}), FALLBACK]:
        if rows := [row for row in files.get(name, []) if _fits(row, run)]:
            return name, rows
    return "none", []


def values(run: dict[str, str]) -> dict[str, Any]:
    """What the recipe sets for a run, with dotted keys, its own name and sources among them."""
    name, rows = matching(run)
    settings: dict[str, Any] = {}
    for row in rows:
        settings |= row["set"]
    note = "; ".join(dict.fromkeys(row["source"] for row in rows))
    if name == FALLBACK:
        note = f"no recipe for {run['method']} on {run['model']} and {run['task']}: {note}"
    return settings | {"recipe.name": name, "recipe.note": note}


class RecipeSource(ConfigSource):
    """Makes `recipe/METHOD/MODEL/BUDGET/TASK` look like a configuration file to Hydra."""

    @staticmethod
    def scheme() -> str:
        """The search path's prefix."""
        return "recipe"

    def available(self) -> bool:
        """Always there."""
        return True

    def is_group(self, config_path: str) -> bool:
        """`recipe` is a group; its options are not listed, they are made on demand."""
        return config_path == "recipe"

    def is_config(self, config_path: str) -> bool:
        """Whether the path names a run: five parts or more, the task keeps its slashes."""
        parts = config_path.removesuffix(".yaml").split("/", 4)
        return len(parts) == 5 and parts[0] == "recipe"

    def load_config(self, config_path: str) -> ConfigResult:
        """The values for the run that the path names."""
        parts = config_path.removesuffix(".yaml").split("/", 4)
        config = OmegaConf.create({})
        for key, value in values(dict(zip(CONDITIONS, parts[1:], strict=True))).items():
            OmegaConf.update(config, key, value)
        return ConfigResult(provider="recipe", path="recipe://", config=config, header={"package": "_global_"})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: a recipe is found by what the run is, not chosen by name."""
        return []


class RecipePath(SearchPathPlugin):
    """Puts the recipes on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append `recipe://`."""
        search_path.append("recipe", "recipe://")


def register() -> None:
    """Make Hydra know the recipes; before hydra.main runs."""
    for plugin in (RecipeSource, RecipePath):
        Plugins.instance().register(plugin)
