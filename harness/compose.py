"""From words on the command line to a checked RunConfig; Hydra's many errors become one message with the nearest name.

Nothing heavy is imported: a mistyped option is answered before torch is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from harness import allowed, recipe, several
from harness.config import RunConfig, field_names
from harness.errors import ConfigError, nearest, unknown
from harness.paths import CONF

# What composing can raise. ValueError: Hydra answers `model=null` and `budget=1` with a bare one.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)

COMMANDS = ("canary", "estimate", "fill", "predict", "report", "search", "status", "table")


def register() -> None:
    """Make Hydra know the schema and the recipes, and hand its errors over instead of printing them."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    ConfigStore.instance().store(name="schema", node=RunConfig)
    OmegaConf.register_new_resolver("overview", overview, replace=True)
    recipe.register()
    allowed.install()


def options(group: str) -> list[str]:
    """The options of a configuration group, nested ones with their folder: `glue/rte`."""
    folder = CONF / group
    found = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(name for name in found if not name.rsplit("/", 1)[-1].startswith("_"))


def groups() -> list[str]:
    """The configuration groups, by their folders."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


def checked(config: DictConfig) -> RunConfig:
    """The composed configuration as dataclasses. Raises ConfigError for what Hydra let pass: `++` keys, missing values."""
    resolved = OmegaConf.to_container(config, resolve=True)
    plain = {key: value for key, value in resolved.items() if key != "hydra"} if isinstance(resolved, dict) else {}
    if isinstance(plain.get("task"), dict):
        plain["task"] = several.whole(plain["task"], _sections)
    try:
        whole = OmegaConf.merge(OmegaConf.structured(RunConfig), plain)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    if missing := sorted(OmegaConf.missing_keys(whole)):
        for group in groups():
            if f"{group}.name" in missing:
                known = ", ".join(options(group))
                raise ConfigError(f"{group}=_... is what several options share, and none itself. Allowed: {known}")
        raise ConfigError(f"no value for {', '.join(missing)}; give it on the command line or in the group's YAML")
    for key in ("name", "_target_"):
        if not isinstance(whole.method.get(key), str):
            raise ConfigError(f"method.{key} is missing: a method's YAML needs `name` and `_target_`")
    if not whole.method["_target_"].startswith(("peft.", "methods.")):
        target = whole.method["_target_"]
        raise ConfigError(f"method._target_={target} is not allowed: it must be a configuration of peft or of methods")
    _check_kinds(whole.method)
    whole.recipe.tags = _tags(whole)
    run = OmegaConf.to_object(whole)
    if not isinstance(run, RunConfig):
        raise ConfigError("the configuration is not a mapping of the schema's groups")
    return run


def _check_kinds(method: Any) -> None:
    """A number stays a number, and a switch a switch. Raises ConfigError; what is null, a list or a word is left to peft.

    The configuration's own class, which knows more, is imported with peft: too late for a typing error.
    """
    file = CONF / "method" / f"{method['name']}.yaml"
    known: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    for key in {*(method.get("ranks") or ()), *(method.get("size") or ())}:
        if isinstance(value := method.get(key), float) and value.is_integer():
            method[key] = int(value)  # 8.0 is 8: the same run, and torch takes no other for a size
    for key, value in method.items():
        default, kinds = known.get(key), {bool: "true or false", int: "a number", float: "a number"}
        wanted = kinds.get(type(default))
        if wanted is None or value is None or kinds.get(type(value)) == wanted:
            continue
        raise ConfigError(f"method.{key}={value} must be {wanted}, as in {file.name}: {json.dumps(default)}")


def _sections(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The sections of other tasks, each as `task=NAME` gives it. Raises ConfigError where there is none of that name."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    ready = GlobalHydra.instance().is_initialized()
    words = [f"+task@task.parts.at_{place}={name}" for place, name in enumerate(names)]
    try:
        with contextlib.nullcontext() if ready else initialize_config_dir(str(CONF), version_base="1.3"):
            whole = compose("config", ["task=demo/entailment", "~recipe", "~level", *words])
    except COMPOSITION_ERRORS as error:
        raise ConfigError(f"task.tasks: {explain(error)}") from error
    found: Any = OmegaConf.to_container(whole.task.parts, resolve=True)
    return dict(zip(names, found.values(), strict=True))


def _tags(config: Any) -> dict[str, str]:
    """The recipe's tags, with those of values that the command line changed put right."""
    tags = dict(config.recipe.tags)
    run = {name: config[name].name for name in recipe.RUN} | {"variant": config.recipe.variant}
    for key, value in recipe.tagged(run).items() if tags else ():
        if key in tags and OmegaConf.select(config, key) != value:
            tags[key] = "command line"
    return tags


def composed(words: Sequence[str]) -> RunConfig:
    """The configuration that these words of a command line give. Raises ConfigError for any mistake in them."""
    from hydra import compose, initialize_config_dir

    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return checked(compose("config", overrides=list(words)))
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error)) from error


def explain(error: BaseException) -> str:
    """One message for whatever composing raised: what was found, what is allowed, the nearest right name."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _bad_option(str(error.missing_cfg_file))
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _bad_key(cause)
    if isinstance(cause, ValidationError):
        told = str(cause.msg or cause).splitlines()[0]
        listed = f"it takes a list, in brackets: {cause.full_key}=[...]" if "is not a ListConfig" in told else told
        return f"{cause.full_key}: {listed}"
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if "Ambiguous value" in text:
        return f"{text.splitlines()[0]}. Several values make a sweep: add -m"
    if text.startswith("Error merging override ~"):
        return f"{text.rpartition('~')[2]} cannot be taken away; where it may be none, key=null says so"
    if lacking := re.match(r"Error resolving interpolation '\$\{method\}.*possible interpolation keys: (.*)", text):
        group = next((one for one in ("method", "model", "budget", "task") if one not in lacking[1].split(", ")), None)
        return f"a run has one {group}: give {group}=NAME (several runs: -m {group}=A,B)" if group else text
    if "Config group override" in text:
        return "a group's option must be a name (method=lora): found a number, a boolean, null or a list"
    if "invalid literal for int()" in text:
        return f"entries of a list are numbered (wandb.tags.0): {text.rpartition(': ')[2]} is no number"
    return text.splitlines()[0] if text else type(error).__name__


def _unreadable(error: OverrideParseException) -> str:
    """What Hydra's grammar cannot read; its own words say little, and of letters like \u00fc nothing."""
    word = str(error.override)
    if word in COMMANDS:
        return f"{word} is a command of its own: python -m harness.{word}"
    told = str(error).splitlines()[0].rpartition("Exception: ")[2]
    return (
        f"cannot read the override {word}{'' if word in told else ': ' + told}. Write key=value, without spaces; what is not of "
        """a to z, digits and /-+.%*@?_: stands in two kinds of quotes, such as 'data.root="my folder"'"""
    )


def overview() -> str:
    """Every group with its options, for `--help`."""
    shown = [*groups(), "hydra/launcher"]
    return "\n".join(f"  {group:<15} {', '.join(options(group))}" for group in shown if options(group))


def _bad_option(path: str) -> str:
    group, _, option = path.removeprefix("hydra/").partition("/")
    group = f"hydra/{group}" if path.startswith("hydra/") else group
    if (CONF / group).is_dir():
        return unknown(group, option, options(group))
    return unknown("group", path, groups())


def _bad_key(error: Any) -> str:
    """A key that the schema lacks. The parent node says which ones it has."""
    parent, key = error.parent_node, str(error.full_key or error.key)
    names = [str(name) for name in parent] if parent is not None and OmegaConf.is_dict(parent) else []
    if not names and "." in key:
        return f"unknown key '{key}': {key.rpartition('.')[0]} is empty. What it may hold is added with a plus: +{key}=VALUE"
    prefix, _, last = key.rpartition(".")
    if not prefix:
        deeper = {str(name): f"{group}.{name}" for group in names if OmegaConf.is_dict(section := parent._get_node(group))
                  for name in section}  # fmt: skip
        names = sorted({*names, *field_names(RunConfig), *groups()} - {"hydra"})
        close = deeper.get(last) or nearest(last, names) or deeper.get(nearest(last, deeper) or "")
    else:
        close = nearest(last, names)
    hint = f" Did you mean {prefix + '.' if prefix else ''}{close}?" if close else ""
    return f"unknown key '{key}'.{hint} Allowed{' in ' + prefix if prefix else ''}: {', '.join(names)}"
