"""What a configuration may make Hydra do: checked on the whole composed configuration, before Hydra acts on any of it.

A configuration can come from a stranger (`--config-dir`, `--config-path`, a record). Hydra itself imports and calls
whatever a `_target_` names, also of callbacks that run before `main`, and whatever logging sections name. Here a
`_target_` is a method's configuration or a launcher, sweeper or sampler of a known package; logging writes to no file;
the environment is neither read nor set; lines of shell for a cluster are taken from our own files or the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from hydra._internal import hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import ConfigError
from harness.paths import CONF

METHODS = ("peft.", "methods.")
PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
SAMPLERS = ("optuna.samplers.", "optuna.pruners.")
# Where a `_target_` may stand, and what it may begin with.
TARGETS = {
    "method._target_": METHODS,
    "hydra.launcher._target_": PLUGINS,
    "hydra.sweeper._target_": PLUGINS,
    "hydra.sweeper.sampler._target_": SAMPLERS,
    "hydra.sweeper.pruner._target_": SAMPLERS,
}
LOGGING = ("hydra.job_logging.", "hydra.hydra_logging.")
HANDLERS = ("logging.StreamHandler", "logging.NullHandler", "colorlog.ColoredFormatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
SHELL = ("setup", "sbatch")  # of hydra.launcher: they are run on the cluster


def install() -> None:
    """Check every configuration that Hydra composes from now on, and read no environment variable for any."""
    hydra_internals.ConfigLoaderImpl = Checked  # type: ignore[misc]
    for name in ("oc.env", "oc.create", "oc.decode", "oc.deprecated"):
        OmegaConf.register_new_resolver(name, _refused(name), replace=True)


def _refused(name: str) -> Any:
    def resolver(*arguments: Any) -> Any:
        raise ConfigError(
            f"${{{name}:...}} is not allowed: a configuration could read secrets with it; write the value"
        )

    return resolver


class Checked(ConfigLoaderImpl):
    """Hydra's loader; what it composes is checked before anybody sees it, Hydra's own logging included."""

    def load_configuration(self, *arguments: Any, **options: Any) -> DictConfig:
        """The composed configuration. Raises ConfigError for what is not allowed."""
        try:
            config = super().load_configuration(*arguments, **options)
        except KeyError as error:  # hydra.job.env_copy of a variable that is not there
            raise ConfigError(f"the configuration asks for {error}, which is not there") from error
        except (TypeError, AttributeError) as error:  # a list of numbers as a group's option, a defaults list of them
            raise ConfigError(f"the configuration cannot be composed ({error}): options of groups are names") from error
        check(config)
        return config


def check(config: DictConfig) -> None:
    """Raises ConfigError with the key of the first thing that is not allowed."""
    words = _words(config)
    for key, value in _leaves(OmegaConf.to_container(config, resolve=False), ""):
        last = key.rpartition(".")[2]
        text = _resolved(config, key, value)
        if key.startswith("hydra") and OmegaConf.is_config(text):
            raise ConfigError(f"{key}={value} is not allowed: Hydra's own sections are written out, not pointed at")
        if last == "_target_":
            if not (isinstance(text, str) and text.startswith(TARGETS.get(key, ())) and ".." not in text):
                where = TARGETS.get(key)
                only = f"it must begin with {' or '.join(where)}" if where else "nothing may be called from there"
                raise ConfigError(f"{key}={text} is not allowed: {only}")
        elif key.startswith(LOGGING):
            _check_logging(key, last, text)
        elif key.startswith(("hydra.callbacks.", "hydra.job.env_set.", "hydra.job.env_copy")):
            raise ConfigError(
                f"{key}={text} is not allowed: a configuration must neither run code nor set environments"
            )
        elif key.startswith(tuple(f"hydra.launcher.{name}" for name in SHELL)) and not (
            _asked(key, words) or str(value) in _own()
        ):
            raise ConfigError(f"{key}={text}: give it on the command line, where you see what will be run")


def _words(config: DictConfig) -> list[str]:
    """The words of the command line that are about Hydra itself."""
    return list(OmegaConf.select(config, "hydra.overrides.hydra") or [])


def _asked(key: str, words: Sequence[str]) -> bool:
    name = ".".join(key.split(".")[:3]).partition("[")[0]
    return any(word.lstrip("+").startswith(name) for word in words)


@cache
def _own() -> str:
    """Our own launchers' files."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((CONF / "hydra" / "launcher").glob("*.yaml")))


def _check_logging(key: str, last: str, value: Any) -> None:
    """logging.config calls what `()` and `class` name and imports what begins with ext://."""
    if (
        last in ("()", "filename", "args", "kwargs")
        or (last == "class" and value not in HANDLERS)
        or (isinstance(value, str) and "ext://" in value and value not in STREAMS)
        or (isinstance(value, str) and value.startswith("cfg://"))
    ):
        raise ConfigError(
            f"{key}={value} is not allowed: a configuration must neither run code nor write files by logging"
        )


def _resolved(config: DictConfig, key: str, value: Any) -> Any:
    """A value with its interpolations replaced, where it has any; those that cannot be are what they say."""
    if not (isinstance(value, str) and "${" in value):
        return value
    try:
        return OmegaConf.select(config, key)
    except (OmegaConfBaseException, ValueError):
        return value


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping or list, with its key, dots between."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _leaves(inside, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inside in enumerate(value):
            yield from _leaves(inside, f"{key}.{place}")
    else:
        yield key, value
