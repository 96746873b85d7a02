"""The papers' hyper-parameters: rows of `conf/recipe/*.toml`, composed by Hydra as if each run had a file of its own.

A row says for which method, model, budget and task it holds (with wildcards) and what it sets; later rows win, the
command line wins over all. `python -m harness --cfg job ...` shows the values that will run. Where no paper's row fits,
`fallback.toml` is used, and the record and the printed line say so. `~recipe` switches recipes off.

Every value has a tag: `script` (the authors' released script or code), `paper`, `inferred` (from something that they
do say), `unknown` (nobody says; this is our choice, or one of `search`) or `ours`. A row's `tag` holds for all its
values, `tags` for some. Where script and paper disagree the rows of a variant hold: `recipe_variant=script` is the
default, `recipe_variant=paper` the alternative; `recipe_variant=prose` is the paper's running text where it contradicts
its own tables. The word "null" stands for null, which TOML lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from harness import level, rows
from harness.errors import ConfigError
from harness.paths import CONF

RUN = ("method", "model", "budget", "task")
CONDITIONS = (*RUN, "variant")
TAGS = ("script", "paper", "inferred", "unknown", "ours")
FALLBACK = "fallback"


def files() -> dict[str, list[rows.Row]]:
    """The rows of every recipe file, by its name. Raises ConfigError for a malformed one."""
    return {path.stem: _checked(path) for path in sorted((CONF / "recipe").glob("*.toml"))}


def _checked(path: Any) -> list[rows.Row]:
    """The rows of one file, their tags checked."""
    found = rows.read(path, "rows", CONDITIONS, ("tag", "tags", "search", "seeds"), "set")
    for number, row in enumerate(found, start=1):
        for key, kind in {"set": dict, "tags": dict, "search": dict, "seeds": list}.items():
            if not isinstance(row.get(key, kind()), kind):
                what = "keys and values" if kind is dict else "a list"
                raise ConfigError(f"recipe {path.name}, row {number}: {key} must hold {what}, found {row[key]!r}")
        tags = row.get("tags", {})
        strange = [
            tag for tag in (row.get("tag", "ours"), *tags.values()) if not isinstance(tag, str) or tag not in TAGS
        ]
        if strange or tags.keys() - row["set"].keys():
            raise ConfigError(
                f"recipe {path.name}, row {number}: tags are {', '.join(TAGS)}, and only for keys that the row sets; "
                f"found {strange or sorted(tags.keys() - row['set'].keys())}"
            )
    return found


def matching(run: dict[str, str]) -> tuple[str, list[rows.Row]]:
    """The recipe's name and its rows for a run given by method, model, budget, task and variant; ("none", []) without.

    The first file (in the order of names) with a fitting row is the recipe; the fallback comes last.
    """
    found = files()
    for name in [*sorted(found.keys() - {FALLBACK}), FALLBACK]:
        if fitting := [row for row in found.get(name, []) if rows.fits(row, run)]:
            return name, fitting
    return "none", []


def values(run: dict[str, str]) -> dict[str, Any]:
    """What the recipe sets for a run, with dotted keys, and under `recipe` what there is to say of them."""
    run = {"variant": "script"} | run | {"budget": level.resolve(run)}
    name, fitting = matching(run)
    settings: dict[str, Any] = {}
    tags = {key: row.get("tag", "ours") for row in level.sizes() if rows.fits(row, run) for key in row["set"]}
    said: dict[str, Any] = {"search": {}, "seeds": []}
    for row in fitting:
        settings |= {key: None if value == "null" else value for key, value in row["set"].items()}
        tags |= dict.fromkeys(row["set"], row.get("tag", "ours")) | row.get("tags", {})
        said |= {key: row[key] for key in said if key in row}
    note = "; ".join(dict.fromkeys(row["source"] for row in fitting))
    if name == FALLBACK:
        note = f"no recipe for {run['method']} on {run['model']} and {run['task']}: {note}"
    return settings | {"recipe": {"name": name, "note": note, "tags": tags, **said}}


def tagged(run: dict[str, str]) -> dict[str, Any]:
    """All values that `recipe.tags` tells of, with dotted keys: the recipe's, and the sizes of the budget's level."""
    return level.values({"budget": "default"} | run) | values(run)


Values = Callable[[dict[str, str]], dict[str, Any]]
# Groups whose options are made on demand -> how, and the parts of the option's name; the task comes last, with slashes.
MADE: dict[str, tuple[Values, tuple[str, ...]]] = {
    "level": (level.values, RUN),
    "recipe": (values, ("method", "model", "budget", "variant", "task")),
}


def _run(config_path: str) -> tuple[Values, dict[str, str]] | None:
    """Who makes the option that a path names, and for which run; None for any other path."""
    group, _, option = config_path.removesuffix(".yaml").partition("/")
    if group not in MADE:
        return None
    made, names = MADE[group]
    parts = option.split("/", len(names) - 1)
    return (made, dict(zip(names, parts, strict=True))) if len(parts) == len(names) else None


class MadeSource(ConfigSource):
    """Makes `recipe/METHOD/MODEL/BUDGET/VARIANT/TASK` (and `level/...`) look like a configuration file to Hydra."""

    @staticmethod
    def scheme() -> str:
        """The search path's prefix."""
        return "made"

    def available(self) -> bool:
        """Always there."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Groups; their options are not listed, they are made on demand."""
        return config_path in MADE

    def is_config(self, config_path: str) -> bool:
        """Whether the path names a run."""
        return _run(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """The values for the run that the path names."""
        found = _run(config_path)
        if found is None:
            raise ConfigError(f"{config_path} names no run")
        config = OmegaConf.create({})
        for key, value in found[0](found[1]).items():
            OmegaConf.update(config, key, value)
        return ConfigResult(provider="made", path="made://", config=config, header={"package": "_global_"})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: a recipe is found by what the run is, not chosen by name."""
        return []


class MadePath(SearchPathPlugin):
    """Puts what is made on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append `made://`."""
        search_path.append("made", "made://")


def register() -> None:
    """Make Hydra know levels and recipes; before hydra.main runs."""
    for plugin in (MadeSource, MadePath):
        Plugins.instance().register(plugin)
