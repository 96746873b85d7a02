"""What reaches a cluster's shell, checked: a launcher's options, when a configuration may come from a stranger.

A job's script holds them all: lines of `setup` as they are, the others in comments that begin with #SBATCH, which a line
break would end. So no option holds a control character, and `setup` and `sbatch` are those of our own files, changed by
nothing but the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import ConfigError
from harness.paths import CONF

SHELL = ("setup", "sbatch")
OPTION = re.compile(r"[a-z][a-z0-9-]*")  # of sbatch, as it stands behind the two dashes
# Whole numbers of our launchers' options: the smallest allowed. None passes where the default is None.
LEAST = {
    "workers": 1, "time_minutes": 1, "cpus_per_task": 1, "nodes": 1, "tasks_per_node": 1, "parallelism": 1, "array_limit": 1,
    "signal_seconds": 0, "max_requeues": 0,
}  # fmt: skip
MOST = 2**31 - 1


def check(launcher: Any, words: Sequence[str]) -> None:
    """Raises ConfigError for what must not reach a shell. `words`: the command line's, as far as they are Hydra's."""
    if not isinstance(launcher, DictConfig):
        return
    plain: Any = OmegaConf.to_container(launcher, resolve=False)
    for key, text in [*_texts(plain, "hydra.launcher"), *_texts(_resolved(launcher), "hydra.launcher")]:
        if not (key + text).isprintable():
            raise ConfigError(
                f"{key!r}: {text!r} is not allowed: it holds a control character, or another unprintable one"
            )
    for name, value in plain.items():
        if name not in SHELL and isinstance(value, dict | list):
            raise ConfigError(f"hydra.launcher.{name}={value} must be a single value")
    _check_numbers(_resolved(launcher))
    setup, sbatch = plain.get("setup") or [], plain.get("sbatch") or {}
    if not isinstance(setup, list) or not isinstance(sbatch, dict):
        raise ConfigError("hydra.launcher.setup must be a list of lines, and hydra.launcher.sbatch a mapping")
    for name in sbatch:
        if not OPTION.fullmatch(str(name)):
            raise ConfigError(f"hydra.launcher.sbatch.{name} is no option of sbatch: write them as in mail-type")
    if [setup, sbatch] not in [_given(default, words) for default in _defaults()]:
        raise ConfigError(
            f"hydra.launcher.setup={setup}, hydra.launcher.sbatch={sbatch}: give both on the command line, key by key, "
            "where you see what will be run"
        )


def _check_numbers(launcher: dict[str, Any]) -> None:
    for name, value in launcher.items():
        key = f"hydra.launcher.{name}={value}"
        if name in LEAST and not (value is None and _none(name)):
            if not isinstance(value, int) or isinstance(value, bool) or not LEAST[name] <= value <= MOST:
                raise ConfigError(f"{key} must be a whole number, {LEAST[name]} or more{' or null' * _none(name)}")
        elif name == "memory_gb" and not (isinstance(value, int | float) and 0 < value < MOST):
            raise ConfigError(f"{key} must be a number above 0, of gigabytes")
        elif name in ("requeue", "wait") and not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false")
        elif name == "device" and value not in (None, "cpu", "cuda"):
            raise ConfigError(f"{key} must be cpu, cuda or null")


def _none(name: str) -> bool:
    """Whether an option of ours may be null."""
    return any(name in one and one[name] is None for one in _defaults())


def _given(default: dict[str, Any], words: Sequence[str]) -> list[Any]:
    """`setup` and `sbatch` of one of our launchers after the command line."""
    config = OmegaConf.create({"hydra": {"launcher": default}})
    asked = [one for one in OverridesParser.create().parse_overrides(list(words))
             if one.key_or_group.split(".")[:2] == ["hydra", "launcher"]]  # fmt: skip
    try:
        ConfigLoaderImpl._apply_overrides_to_config(asked, config)
        launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=False)
        return [launcher.get("setup") or [], launcher.get("sbatch") or {}]
    except (HydraException, OmegaConfBaseException):  # words for another launcher than this one
        return []


@cache
def _defaults() -> list[dict[str, Any]]:
    """Our own launchers' options."""
    files = sorted((CONF / "hydra" / "launcher").glob("*.yaml"))
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]


def _resolved(launcher: DictConfig) -> Any:
    """With its interpolations replaced; what cannot be is refused when it is used."""
    try:
        return OmegaConf.to_container(launcher, resolve=True)
    except (OmegaConfBaseException, ValueError):
        return {}


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every value as text, with its key, of empty mappings and lists too."""
    yield key, "" if isinstance(value, dict | list) else str(value)
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _texts(inside, f"{key}.{name}")
    elif isinstance(value, list):
        for place, inside in enumerate(value):
            yield from _texts(inside, f"{key}.{place}")
